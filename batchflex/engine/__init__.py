"""One run: requests are admitted, sent, tried again, and their outcomes kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.lazy import exports

if TYPE_CHECKING:
    from . import evaluate as evaluate
    from .budget import BudgetLimit as BudgetLimit
    from .engine import Engine as Engine
    from .estimate import Estimate as Estimate
    from .failure_limit import Failures as Failures
    from .job_run import JobRun as JobRun
    from .leases import Lease as Lease, Lessor as Lessor, LocalLessor as LocalLessor
    from .monitor import unless_it_fails as unless_it_fails
    from .pacer_setup import Share as Share
    from .queue import RequestQueue as RequestQueue
    from .retry_rows import Retry as Retry, missing_input as missing_input, preview as preview, retry_of as retry_of
    from .run_lifecycle import Deadline as Deadline, Execution as Execution
    from .run_result import Nobody as Nobody, Observer as Observer, Run as Run
    from .underway import (
        RowStream as RowStream,
        Underway as Underway,
        awaited as awaited,
        on_a_loop as on_a_loop,
        rows_of as rows_of,
        wait_for as wait_for,
    )

__all__, __getattr__, __dir__ = exports(__name__)
