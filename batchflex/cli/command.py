"""The command line: finds the verb, runs it, and turns what went wrong into a message and an exit code."""

from __future__ import annotations

import argparse
import importlib
import signal
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..core import BatchflexError
from . import interrupts, json_failure, output, process, remote_outputs
from .option_parser import CommandLineError
from .options import parse

if TYPE_CHECKING:
    from .logs import Logs

# Which verbs each module has; imported when it is used, so that ``--help`` is quick.
_MODULES = {
    "verbs_run": ("run", "retry"),
    "verbs_setup": ("init", "plan", "doctor", "check", "schedule", "notify"),
    "verbs_status": ("status", "history"),
    "verbs_results": ("results", "report", "compact", "copy"),
    "verbs_scores": ("score", "compare"),
}
_LOGGED = ("run", "retry")


def run(words: Sequence[str]) -> int:
    """Run the command that these are the words of, and return its exit code."""
    output.prepare_streams()
    wants_json = json_failure.is_asked_for(words)
    options: argparse.Namespace | None = None
    try:
        options = parse(words)
        with process.spared_imports():
            verb = _verb(options)
            with interrupts.raised(all_of_them=wants_json or options.verb in _LOGGED), remote_outputs.at_hand(options):
                return verb(options)
    except BrokenPipeError:
        output.discard_stdout()
        return 0
    except SystemExit:  # of argparse, for --help
        raise
    except BaseException as error:
        return _failed(interrupts.cause_of(error), options, wants_json=wants_json)


def _verb(options: argparse.Namespace) -> Callable[[argparse.Namespace], int]:
    process.allow_open_files()
    if options.verb != "score":  # which would take half as long again for pages that are given back and taken again
        from ..core import malloc

        malloc.give_back(short=options.verb != "run")
    name = next(name for name, verbs in _MODULES.items() if options.verb in verbs)
    module = importlib.import_module(f".{name}", __package__)
    found: Callable[[argparse.Namespace], int] = getattr(module, options.verb)
    return found


def _failed(error: BaseException, options: argparse.Namespace | None, *, wants_json: bool) -> int:
    """Report what ended the command, and return its exit code."""
    if isinstance(error, KeyboardInterrupt):
        if (decided := interrupts.decision()) is not None:  # and perhaps printed
            return decided
        exit_code = int(getattr(error, "exit_code", 130))
        words = f"interrupted by {signal.Signals(exit_code - 128).name}; what was answered is kept"
    elif isinstance(error, BatchflexError):
        exit_code, words = error.exit_code, str(error)
    else:
        exit_code, words = 3, _unexpected(error)
    notes = _notes(error)
    if wants_json and not output.has_shown_json():
        try:
            output.show_json(json_failure.failure(error, exit_code, words, notes, options))
        except OSError:  # nobody reads it, or the disk is full: the exit code says it
            output.discard_stdout()
    if isinstance(error, KeyboardInterrupt):
        if options is not None:
            _logged(options, error, exit_code)
        return exit_code
    if options is not None and options.debug:
        output.say(traceback.format_exc())
    if options is None or not _logged(options, error, exit_code):
        lines = [words if isinstance(error, CommandLineError) else f"batchflex: {words}"]
        output.say("\n".join([*lines, *(f"batchflex: {note}" for note in notes)]))
    return exit_code


def _logged(options: argparse.Namespace, error: BaseException, exit_code: int) -> bool:
    """Log what ended the command, if it has logs. True if standard error is one of them, so that it has the message already."""
    if options.verb not in _LOGGED:
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
