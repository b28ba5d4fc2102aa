"""Where the command line begins: first it is seen to signals, then all that takes time is imported."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from . import interrupts


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. Without ``argv`` it is the command of this process: whatever signal comes from here
    on, until the process is gone, it ends with that code."""
    with interrupts.minded(to_the_end=argv is None):
        from . import command

        code = command.run(sys.argv[1:] if argv is None else list(argv))
        interrupts.decided(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
