"""Errors, types, events, and pure helpers. Imports nothing else of the package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy import exports

if TYPE_CHECKING:
    from . import (
        cell_values as cell_values,
        format as format,
        malloc as malloc,
        shell_command as shell_command,
        signals as signals,
        text_tables as text_tables,
    )
    from .cell_values import text_of as text_of
    from .errors import (
        AttemptError as AttemptError,
        BatchflexError as BatchflexError,
        Deferred as Deferred,
        EndpointError as EndpointError,
        Filtered as Filtered,
        FolderBusy as FolderBusy,
        FolderError as FolderError,
        InputError as InputError,
        Interrupted as Interrupted,
        JobChanged as JobChanged,
        JobError as JobError,
        JobWarning as JobWarning,
        KeyReplaced as KeyReplaced,
        LimitKind as LimitKind,
        MissingExtra as MissingExtra,
        NotReady as NotReady,
        RateLimited as RateLimited,
        RowFault as RowFault,
        RunFault as RunFault,
        RunStopped as RunStopped,
        StopReason as StopReason,
        StorageError as StorageError,
        Transient as Transient,
        sole_fault as sole_fault,
    )
    from .events import (
        RULE as RULE,
        Emit as Emit,
        Emitter as Emitter,
        Event as Event,
        Level as Level,
        brief as brief,
        guarded as guarded,
        ident as ident,
        named as named,
        unquoted as unquoted,
    )
    from .format import (
        count as count,
        duration as duration,
        figure as figure,
        money as money,
        percent as percent,
        seconds_between as seconds_between,
        short as short,
    )
    from .frames import frame_of as frame_of
    from .gil import GilYield as GilYield
    from .input_urls import (
        BUCKET_SCHEMES as BUCKET_SCHEMES,
        WEB_SCHEMES as WEB_SCHEMES,
        is_url as is_url,
        scheme_of as scheme_of,
        url_name as url_name,
        without_signature as without_signature,
    )
    from .message import Message as Message
    from .near_paths import did_you_mean as did_you_mean, nearest as nearest
    from .output_urls import (
        bucket_fault as bucket_fault,
        copies_folder as copies_folder,
        copy_of as copy_of,
        is_bucket as is_bucket,
        output_path as output_path,
    )
    from .redact import Redactor as Redactor, redacted as redacted
    from .request_keys import KeySet as KeySet
    from .safe_text import (
        json_line as json_line,
        one_line as one_line,
        printable as printable,
    )
    from .signals import Signalled as Signalled, ending as ending, heard as heard, raising as raising
    from .sorted_keys import SortedKeys as SortedKeys, key_halves as key_halves, raw as raw
    from .spared_imports import SparedImports as SparedImports
    from .text_tables import Column as Column, aligned as aligned, boxed as boxed, clipped as clipped
    from .timings import TIMINGS as TIMINGS
    from .types import (
        BAD as BAD,
        STATUSES as STATUSES,
        Answer as Answer,
        Attachment as Attachment,
        AttachmentKind as AttachmentKind,
        CutBy as CutBy,
        Ending as Ending,
        FormatFallback as FormatFallback,
        Item as Item,
        Outcome as Outcome,
        Prefix as Prefix,
        Proof as Proof,
        Request as Request,
        Row as Row,
        Status as Status,
        Usage as Usage,
    )
    from .version import __version__ as __version__

__all__, __getattr__, __dir__ = exports(__name__)
