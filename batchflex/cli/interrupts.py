"""What SIGINT, SIGTERM and SIGHUP do to a command, from its first moment to its last.

First and last, and while much is imported, a signal waits: an exception in the middle of an import can get lost, or is shown with
a traceback, and one in the middle of the last words would make the exit code another than the one that was printed. In between, a
signal raises. Imports next to nothing itself, as a signal may come at once.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Now:
    raises = False
    waiting: int | None = None  # the signal that came and waits
    raised: int | None = None  # that was raised, whatever has become of the exception in an event loop
    exit_code: int | None = None
    is_over = False  # nothing is left to do but to exit
    before: dict[signal.Signals, Any] = {}  # noqa: RUF012 - what the signals did before


@contextmanager
def minded(*, to_the_end: bool) -> Iterator[None]:
    """Signals wait in the block but where they raise: see :func:`raised`. With ``to_the_end`` no signal that comes after it
    changes the exit code either; else they do what they did before."""
    _Now.raises, _Now.is_over = False, False
    _Now.waiting, _Now.raised, _Now.exit_code = None, None, None
    _Now.before = {}
    with suppress(ValueError):  # in another thread than the main one nobody may set handlers
        for number in _NUMBERS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as SIGHUP is under nohup
                _Now.before[number] = signal.signal(number, _handle)
    if to_the_end:
        atexit.register(_end)  # the first that is registered is the last that is called
    try:
        yield
    except SystemExit as left:  # of argparse, for --help
        decided(left.code if isinstance(left.code, int) else 0)
        raise
    finally:
        if to_the_end:
            _Now.is_over = True
        else:
            _restore()


@contextmanager
def raised(*, all_of_them: bool) -> Iterator[None]:
    """In the block signals raise, the one that waited for it, too: SIGINT a KeyboardInterrupt, and so do SIGTERM and SIGHUP if
    ``all_of_them`` do; else these end the process at once."""
    _raise_waiting()
    _Now.raises = True
    for number, before in _Now.before.items():
        # Of SIGINT the event loop expects Python's own handler.
        if number == signal.SIGINT or not all_of_them:
            signal.signal(number, before)
    try:
        _raise_waiting()
        yield
    finally:
        _Now.raises = False
        for number in _Now.before:
            signal.signal(number, _handle)


@contextmanager
def held() -> Iterator[None]:
    """Where signals raise: in the block they wait until its end."""
    if not _Now.raises:
        yield
        return
    now = {number: signal.getsignal(number) for number in _Now.before}
    _Now.raises = False
    for number in now:
        signal.signal(number, _handle)
    try:
        yield
    finally:
        _Now.raises = True
        for number, handler in now.items():
            signal.signal(number, handler)
    _raise_waiting()


def decided(exit_code: int) -> None:
    """The exit code will be this one, whatever signal comes."""
    _Now.exit_code = exit_code


def decision() -> int | None:
    """The exit code that was decided on, if one was."""
    return _Now.exit_code


def cause_of(error: BaseException) -> BaseException:
    """What ended a command that ended with this error: a signal, if one was raised; else the error itself."""
    if _Now.raised is not None:
        return _signalled(_Now.raised)
    found = error
    while isinstance(found, BaseExceptionGroup):
        found = next((each for each in found.exceptions if not isinstance(each, Exception)), found.exceptions[0])
    return found if isinstance(found, KeyboardInterrupt) else error


def _handle(number: int, _: FrameType | None) -> None:
    if _Now.raises:
        _raise(number)
    if _Now.is_over or _Now.waiting is not None:  # or it has come twice
        os._exit(128 + number if _Now.exit_code is None else _Now.exit_code)
    _Now.waiting = number


def _raise_waiting() -> None:
    if _Now.waiting is not None:
        number, _Now.waiting = _Now.waiting, None
        _raise(number)


def _raise(number: int) -> None:
    _Now.raised = number
    raise _signalled(number)


def _signalled(number: int) -> KeyboardInterrupt:
    from ..core import Signalled

    return Signalled(number)


def _restore() -> None:
    for number, handler in _Now.before.items():
        signal.signal(number, handler)
    _Now.before = {}


def _end() -> None:
    """End the process, before Python puts away, one by one, all that it has: that takes as long as some hundred rows. Only where
    something cannot be written any more Python itself ends it, and says so; as it gives signals back what they do by default,
    which is to end the process with a code of their own, they are ignored then."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
        if _Now.exit_code is not None:
            os._exit(_Now.exit_code)
    for number in _Now.before:
        signal.signal(number, signal.SIG_IGN)
