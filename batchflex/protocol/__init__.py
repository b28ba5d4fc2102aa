"""What OpenAI-compatible APIs take and say. Pure: no clock, no files, no network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.lazy import exports

if TYPE_CHECKING:
    from . import (
        classify as classify,
        failure_evidence as failure_evidence,
        failure_text as failure_text,
        json_answers as json_answers,
        openai_batch as openai_batch,
        pydantic_models as pydantic_models,
        rate_limit_headers as rate_limit_headers,
        reask as reask,
        response_headers as response_headers,
    )
    from .chat_route import CHAT as CHAT
    from .classify import KEY_COMMAND as KEY_COMMAND
    from .error_body import retry_after as retry_after
    from .event_stream import Events as Events
    from .failure_evidence import (
        BLAMELESS as BLAMELESS,
        VOIDING as VOIDING,
        are_alike as are_alike,
        can_be_void as can_be_void,
    )
    from .finish_reasons import plain_word as plain_word
    from .json_answers import Shapes as Shapes, requested_format as requested_format, schema_of as schema_of
    from .json_values import HALF as HALF, halves_in as halves_in, unwritable as unwritable
    from .parameters import TRANSPORT as TRANSPORT, model_of as model_of
    from .pydantic_models import Model as Model
    from .rate_limit_headers import Level as Level, Limited as Limited, RateLimits as RateLimits
    from .reask import (
        REASK_STATUSES as REASK_STATUSES,
        Policy as Policy,
        carried_on as carried_on,
        cut_by as cut_by,
        given_up as given_up,
    )
    from .route import Receipt as Receipt, Route as Route, Stream as Stream, Verdict as Verdict
    from .routes import ROUTES as ROUTES, conversation as conversation

__all__, __getattr__, __dir__ = exports(__name__)
