"""Several short errands side by side, within a bound; a signal cuts them short and ends nothing else."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType

from ..core import ending

_SLACK_S = 3.0  # beyond the bound, for what ends a moment after it
_LOOK_S = 0.02

# Returns why it failed, as a sentence, or None; ends soon after the event is set.
Errand = Callable[[threading.Event], str | None]


def do(errands: Mapping[str, Errand], within_s: float) -> dict[str, str | None]:
    """Do them all, each in a thread, and return why each failed, if it did. Blocks.

    An errand bounds itself; one that has not ended a few seconds after ``within_s`` is left alone. In the main thread SIGINT,
    SIGTERM and SIGHUP make all of them give up.
    """
    outcomes: dict[str, str | None] = {}
    unended = f"it did not come to an end within {within_s:.3g} s"
    given_up = threading.Event()

    def go(name: str, errand: Errand) -> None:
        try:
            outcomes[name] = errand(given_up)
        except Exception as error:  # whatever it is, it must not reach the run
            outcomes[name] = f"an unexpected fault of batchflex itself: {type(error).__name__}"

    threads = [threading.Thread(target=go, args=errand, daemon=True) for errand in errands.items()]
    try:
        with _terminable():
            for thread in threads:
                thread.start()
            _join(threads, within_s + _SLACK_S)
    except KeyboardInterrupt:
        unended = "this was interrupted"
        given_up.set()
        _join(threads, _SLACK_S)
    return {name: outcomes.get(name, unended) for name in errands}


def _join(threads: Sequence[threading.Thread], within_s: float) -> None:
    """Wait by looking: with polars a SIGINT does not wake a thread that waits for another."""
    due = time.monotonic() + within_s
    while time.monotonic() < due and any(thread.is_alive() for thread in threads):
        time.sleep(_LOOK_S)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP do what SIGINT does, where nobody else has a use for them."""
    in_main = threading.current_thread() is threading.main_thread()
    unused = [number for number in ending() if signal.getsignal(number) is signal.SIG_DFL]
    if not in_main:
        yield
        return

    def cut_short(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in unused:
        signal.signal(number, cut_short)
    try:
        yield
    finally:
        for number in unused:
            signal.signal(number, signal.SIG_DFL)
