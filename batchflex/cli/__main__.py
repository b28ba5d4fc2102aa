"""``python -m batchflex.cli``, which schedules of earlier versions call."""

from .main import main

if __name__ == "__main__":
    raise SystemExit(main())
