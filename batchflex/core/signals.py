"""The signals that ask a command to end."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from types import FrameType
from typing import NoReturn


class Signalled(KeyboardInterrupt):
    """One of these signals came. What a Ctrl-C would end ends by this, too."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


def ending() -> list[signal.Signals]:
    """SIGINT, SIGTERM and SIGHUP, which a closed terminal sends; that last one not if it is ignored, as under ``nohup``."""
    found = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        found.append(signal.SIGHUP)
    return found


@contextlib.contextmanager
def heard(number: int, listen: Callable[[], object]) -> Iterator[None]:
    """Call ``listen`` when this signal comes, in place of whatever handles it. Only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, lambda *_: listen())
    try:
        yield
    finally:
        signal.signal(number, before)


@contextlib.contextmanager
def received() -> Iterator[AsyncIterator[signal.Signals]]:
    """These signals as they come, in an event loop of the main thread; after the block they do what they did before."""
    import anyio

    before = {number: signal.getsignal(number) for number in ending()}
    try:
        with anyio.open_signal_receiver(*before) as found:
            yield found
    finally:  # the loop leaves them to end the process
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def raising(numbers: Iterable[int], make: Callable[[int], BaseException]) -> Iterator[None]:
    """Raise what ``make`` makes of their number when these signals come. Only in the main thread: no other may set handlers."""

    def handle(number: int, _: FrameType | None) -> NoReturn:
        raise make(number)

    in_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handle) for number in (numbers if in_main else ())}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
