"""One output folder, which has two sides.

The spool is local: the lock (:mod:`.output_folder`), the journal with its reserve (:mod:`.journal`) and what is appended to. A
:class:`Store` has whole objects under their final names: the parts, and small files that are replaced; it is a folder today.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.lazy import exports

if TYPE_CHECKING:
    from . import (
        carried_updates as carried_updates,
        copying as copying,
        disk_space as disk_space,
        journal as journal,
        part_files as part_files,
        part_index as part_index,
        part_merging as part_merging,
        part_numbers as part_numbers,
        places as places,
        record as record,
        remote_output as remote_output,
        results_table as results_table,
        shard_states as shard_states,
        superseded as superseded,
        table_files as table_files,
        table_reuse as table_reuse,
        writer as writer,
    )
    from .carried_updates import CarriedUpdates as CarriedUpdates, UpdatesWriter as UpdatesWriter
    from .files import (
        append as append,
        replaced as replaced,
        replacing as replacing,
        storing as storing,
        sync_folder as sync_folder,
    )
    from .helper import Helper as Helper
    from .model_substitutes import Substitutes as Substitutes, is_substitute as is_substitute
    from .output_folder import Folder as Folder
    from .parsed_columns import declared as declared
    from .part_files import COLUMNS as COLUMNS
    from .part_merging import Size as Size
    from .part_numbers import Number as Number
    from .positions import (
        OPEN as OPEN,
        Layout as Layout,
        Positions as Positions,
        Span as Span,
        file_at as file_at,
        shaped as shaped,
    )
    from .record import RowContext as RowContext, with_verdict as with_verdict
    from .rejected_answers import PENDING as PENDING, RejectedAnswers as RejectedAnswers
    from .remote_errors import RemoteError as RemoteError
    from .remote_files import (
        BucketFile as BucketFile,
        InputBucket as InputBucket,
        Listing as Listing,
        RemoteFile as RemoteFile,
    )
    from .results_columns import (
        JSON_COLUMNS as JSON_COLUMNS,
        Origins as Origins,
        layout_of as layout_of,
        sweep_columns as sweep_columns,
    )
    from .run_history import (
        Attempt as Attempt,
        HistoryLine as HistoryLine,
        catch_up as catch_up,
        line_of_last as line_of_last,
    )
    from .run_state import (
        RetryRecord as RetryRecord,
        RunState as RunState,
        Wait as Wait,
        priced_by as priced_by,
        sent as sent,
        timestamp as timestamp,
    )
    from .store import FolderStore as FolderStore, Store as Store
    from .superseded import Answers as Answers
    from .table_files import ResultsFiles as ResultsFiles, ScoresFiles as ScoresFiles
    from .void_failures import Void as Void
    from .web_files import WebFile as WebFile
    from .writer import OutcomeWriter as OutcomeWriter

__all__, __getattr__, __dir__ = exports(__name__)
