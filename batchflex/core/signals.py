"""The signals that ask a run to end."""

from __future__ import annotations

import signal


def ending() -> list[signal.Signals]:
    """SIGINT, SIGTERM and SIGHUP, which a closed terminal sends; that last one not if it is ignored, as under ``nohup``."""
    found = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        found.append(signal.SIGHUP)
    return found
