"""The command line: finds the verb, runs it, and turns what went wrong into a message and an exit code."""

from __future__ import annotations

import argparse
import atexit
import gc
import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..core import BatchflexError
from . import output, process
from .options import parse

if TYPE_CHECKING:
    from .logs import Logs

# Which verbs each module has; imported when it is used, so that ``--help`` is quick.
_MODULES = {
    "verbs_run": ("run", "retry"),
    "verbs_setup": ("plan", "check", "schedule", "notify"),
    "verbs_status": ("status", "history"),
    "verbs_results": ("results", "report", "compact"),
    "verbs_scores": ("score", "compare"),
}


def main(argv: Sequence[str] | None = None) -> int:
    output.prepare_streams()
    options = parse(argv)
    process.allow_open_files()
    atexit.register(gc.freeze)  # or the last thing that a process does is to collect garbage, in vain
    try:
        if options.verb != "score":  # which would take half as long again for pages that are given back and taken again
            from ..core import malloc

            malloc.give_back(short=options.verb != "run")
        name = next(name for name, verbs in _MODULES.items() if options.verb in verbs)
        module = importlib.import_module(f".{name}", __package__)
        verb: Callable[[argparse.Namespace], int] = getattr(module, options.verb)
        return verb(options)
    except KeyboardInterrupt as error:
        _logged(options, error, 130)
        return 130
    except BrokenPipeError:
        output.discard_stdout()
        return 0
    except Exception as error:
        if options.debug:
            output.say(traceback.format_exc())
        exit_code, words = (
            (error.exit_code, str(error)) if isinstance(error, BatchflexError) else (3, _unexpected(error))
        )
        if not _logged(options, error, exit_code):
            output.say("\n".join(f"batchflex: {each}" for each in (words, *_notes(error))))
        return exit_code


def _logged(options: argparse.Namespace, error: BaseException, exit_code: int) -> bool:
    """Log what ended the command, if it has logs. True if standard error is one of them, so that it has the message already."""
    if options.verb not in ("run", "retry"):
        return False
    try:
        if "logs" not in options:
            options.logs = _logs_without_job(options)
        logs: Logs = options.logs
        on_stderr = logs.failed(error, exit_code)
        for note in _notes(error) if on_stderr else ():
            logs.warn(note)
        return on_stderr
    except Exception:  # the log cannot be written; the error itself is reported with its own exit code
        return False


def _logs_without_job(options: argparse.Namespace) -> Logs:
    from .job_options import log_settings
    from .logs import logs_without_job

    job_file = Path(options.spec) if options.verb == "run" else options.out / "job.toml"
    run_id = getattr(options, "run_id", None)  # a signal may come before there is one
    return logs_without_job(log_settings(options), job_file, quiet=options.quiet, attempt=run_id)


def _unexpected(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    words = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"
    after = "What was answered is kept. --debug shows where it happened; please report it."
    return f"an unexpected fault of batchflex itself: {words}\n{after}"


def _notes(error: BaseException) -> list[str]:
    """What else is to be reported with an error: who could not be notified of it."""
    return list(getattr(error, "__notes__", []))


if __name__ == "__main__":
    sys.exit(main())
