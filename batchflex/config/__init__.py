"""A job file, and what it may say: text to :class:`Job`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.lazy import exports

if TYPE_CHECKING:
    from . import dated_path as dated_path, path_variables as path_variables, toml as toml
    from .choices import LABEL as LABEL, label_schema as label_schema
    from .commented_job import commented as commented
    from .dated_path import local as local
    from .diff import SHAPING as SHAPING, changes as changes, endpoint_of as endpoint_of
    from .durations import (
        deadline_s as deadline_s,
        moment_of as moment_of,
        parse_age as parse_age,
        parse_duration as parse_duration,
        until_change_s as until_change_s,
    )
    from .endpoint_section import (
        HOSTED as HOSTED,
        EndpointSection as EndpointSection,
        EndpointsEntry as EndpointsEntry,
        endpoint_name as endpoint_name,
        host_of as host_of,
        hosted_at as hosted_at,
        text_fault as text_fault,
    )
    from .environment import (
        Environment as Environment,
        credential as credential,
        environment_of as environment_of,
        exposed as exposed,
    )
    from .fields import http_url as http_url
    from .job import Job as Job, PromptSection as PromptSection
    from .job_checks import NO_PRICES as NO_PRICES, NO_SHARDS as NO_SHARDS, unbounded as unbounded
    from .loader import (
        build as build,
        changed as changed,
        job_of_section as job_of_section,
        load as load,
        parse_setting as parse_setting,
        read as read,
        tables_of as tables_of,
    )
    from .missing_files import absent_input as absent_input, input_path as input_path
    from .mistake_messages import choice as choice
    from .notify_sections import Address as Address, Pings as Pings, address as address, pings as pings
    from .path_variables import expanded as expanded, literal as literal
    from .run_outcomes import (
        End as End,
        Occasion as Occasion,
        end_of as end_of,
        event_of as event_of,
        is_news as is_news,
        last_trouble as last_trouble,
        went_well as went_well,
    )
    from .score_sections import (
        LETTERS as LETTERS,
        ROUND_A_NAME as ROUND_A_NAME,
        JudgeSection as JudgeSection,
        ScoreLike as ScoreLike,
        ScoreSection as ScoreSection,
        names_of as names_of,
        specs_of as specs_of,
    )
    from .sections import (
        JournalSection as JournalSection,
        LimitsSection as LimitsSection,
        LogSection as LogSection,
        PricesSection as PricesSection,
        RetrySection as RetrySection,
        StorageSection as StorageSection,
        cost_usd as cost_usd,
        price_usd as price_usd,
    )
    from .settings import (
        for_another_server as for_another_server,
        places_of as places_of,
        retry_fault as retry_fault,
    )
    from .sweep import combinations as combinations

__all__, __getattr__, __dir__ = exports(__name__)
