"""Several short deliveries at the same time, bounded in time; a signal cuts them short and ends nothing else."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from ..core import ending, raising

_SLACK_S = 3.0  # beyond the bound, for what ends a moment after it
_POLL_S = 0.02

# Returns why it failed, as a sentence, or None; ends soon after the event, which cancels it, is set.
Delivery = Callable[[threading.Event], str | None]


def deliver(deliveries: Mapping[str, Delivery], within_s: float) -> dict[str, str | None]:
    """Start each delivery in a thread, and return for each why it failed, or ``None``. Blocks.

    A delivery bounds itself; one that has not ended a few seconds after ``within_s`` is abandoned. In the main thread SIGINT,
    SIGTERM and SIGHUP cancel all of them.
    """
    outcomes: dict[str, str | None] = {}
    unended = f"it did not come to an end within {within_s:.3g} s"
    cancelled = threading.Event()

    def one(name: str, delivery: Delivery) -> None:
        try:
            outcomes[name] = delivery(cancelled)
        except Exception as error:  # whatever it is, it must not reach the run
            outcomes[name] = f"an unexpected fault of batchflex itself: {type(error).__name__}"

    threads = [threading.Thread(target=one, args=each, daemon=True) for each in deliveries.items()]
    # SIGTERM and SIGHUP do what SIGINT does, unless they have a handler already.
    unhandled = [number for number in ending() if signal.getsignal(number) is signal.SIG_DFL]
    try:
        with raising(unhandled, lambda _: KeyboardInterrupt()):
            for thread in threads:
                thread.start()
            _join(threads, within_s + _SLACK_S)
    except KeyboardInterrupt:
        unended = "this was interrupted"
        cancelled.set()
        _join(threads, _SLACK_S)
    return {name: outcomes.get(name, unended) for name in deliveries}


def _join(threads: Sequence[threading.Thread], within_s: float) -> None:
    """Polls: with polars a SIGINT does not wake a thread that waits for another."""
    due = time.monotonic() + within_s
    while time.monotonic() < due and any(thread.is_alive() for thread in threads):
        time.sleep(_POLL_S)
