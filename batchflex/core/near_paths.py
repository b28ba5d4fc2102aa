"""Which name, file or folder somebody probably meant by one that is not there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_MOST_NAMES = 10_000  # looked at in one folder
_RUNS = "runs"


def nearest(name: str, allowed: Iterable[str]) -> str | None:
    """The one of ``allowed`` that is most like ``name``; ``None`` if none is like it."""
    import difflib  # which --help does without

    near = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return near[0] if near else None


def did_you_mean(path: str | Path, *, of_run: bool = False) -> str:
    """``; did you mean runs/label-reviews?``, if there is a path much like this one; else nothing. ``of_run`` says that an output
    folder is wanted, and not any path. Reads names of folders, and nothing else."""
    near = near_path(Path(path), of_run=of_run)
    return "" if near is None else f"; did you mean {near}?"


def near_path(path: Path, *, of_run: bool = False) -> Path | None:
    """The path that is there and most like ``path``, which is not; ``None`` if none is like it."""
    try:
        under_runs = Path(_RUNS) / path.name
        if of_run and len(path.parts) == 1 and _is_run(under_runs):
            return under_runs
        found = Path(path.anchor)
        parts = path.relative_to(path.anchor).parts
        for number, name in enumerate(parts):
            if (found / name).exists():
                found /= name
                continue
            near = _nearest(found, name, of_run=of_run and number == len(parts) - 1)
            if near is None:
                return None
            found /= near
        is_another = found != path and found.parts and (not of_run or _is_run(found))
    except (OSError, ValueError):  # may not be read, or is no path at all
        return None
    return found if is_another else None


def _nearest(folder: Path, name: str, *, of_run: bool) -> str | None:
    names = []
    for number, each in enumerate(folder.iterdir()):
        if number == _MOST_NAMES:
            break
        if not each.name.startswith(".") and (not of_run or _is_run(each)):
            names.append(each.name)
    alike = [each for each in names if Path(each).suffix == Path(name).suffix]
    return nearest(name, alike) or nearest(name, names)


def _is_run(folder: Path) -> bool:
    return (folder / "run.json").exists() or (folder / "parts").is_dir() or (folder / "history.jsonl").exists()
