"""Which files an input is: of paths, folders, patterns, and folders that are data sets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..config import Job, StorageSection, absent_input, input_path
from ..core import InputError, is_url, without_signature
from .formats import ENDINGS, is_known
from .input_file import InputFile

_SHOWN_FILES = 8
# What lies beside the data in folders that the library "datasets" makes, and in snapshots of its hub.
INFO, STATE, SPLITS = "dataset_info.json", "state.json", "dataset_dict.json"
NO_DATA = {INFO, SPLITS, "dataset_infos.json"}


def require_input(job: Job) -> None:
    """See to it that there is something at each path of the input, without reading it. Of one that is not on this machine its
    store or server is asked.

    :raises InputError: if there is not.
    """
    for pattern in _patterns(job.input.path):
        if is_url(pattern):
            _expanded_url(pattern, job.storage)
        else:
            _require(pattern)


def _expanded_url(url: str, storage: StorageSection) -> list[InputFile]:
    from .remote_paths import expand_url

    try:
        return [*expand_url(url, storage)]
    except OSError as error:
        raise InputError(f"the input {without_signature(url)} cannot be read: {error.strerror or error}") from None


def _require(pattern: str) -> Path:
    if (fault := absent_input(pattern)) is not None:
        raise InputError(fault)
    path = input_path(pattern)
    if not path.exists() and next(_glob(path), None) is None:
        root, _ = _parts(path)
        raise InputError(f"no file matches the input path {pattern}; {root} has {_contents(root)}")
    return path


def _patterns(paths: str | list[str] | None) -> list[str]:
    return [paths] if isinstance(paths, str) else paths or []


def expand(paths: str | list[str], storage: StorageSection = StorageSection()) -> list[InputFile]:  # noqa: B008 - immutable
    """The files that paths, folders, patterns and URLs stand for, each once.

    :raises InputError: if there is none, or one of them cannot be read as a file.
    """
    found: dict[InputFile, None] = {}
    for pattern in _patterns(paths):
        if is_url(pattern):
            found |= dict.fromkeys(_expanded_url(pattern, storage))
            continue
        try:
            found |= dict.fromkeys(_named(pattern))
        except OSError as error:
            raise InputError(f"the input {pattern} cannot be looked through: {error}") from None
    return list(found)


def input_files(job: Job) -> set[Path]:
    """The files of this machine that the job reads its rows from, as far as they are still there; links followed."""
    try:
        here = [path for path in _patterns(job.input.path) if not is_url(path)]
        return {path.resolve() for path in expand(here) if isinstance(path, Path)}
    except InputError:
        return set()


def _named(pattern: str) -> list[Path]:
    path = _require(pattern)
    if path.is_dir():
        return _in_folder(path)
    if path.exists():
        if not path.is_file():
            raise InputError(f"the input {path} is no file: it is read more than once, so write it into one first")
        return [path]
    return sorted(_glob(path))


def _in_folder(folder: Path) -> list[Path]:
    """The files in a folder that are input: neither hidden, nor of output folders, nor what describes a data set."""
    if splits := _splits(folder):
        raise InputError(
            f"the folder {folder} is a data set of several splits: {', '.join(splits)}. Name one of them in input.path, "
            f"such as {str(folder / splits[0])!r}"
        )
    outputs = {
        run.parent for run in folder.rglob("run.json") if run.parent != folder and (run.parent / "parts").is_dir()
    }
    data_sets = {state.parent: _shards(state) for state in folder.rglob(STATE) if state.with_name(INFO).is_file()}
    here = sorted(
        path
        for path in folder.rglob("*")
        if _is_input(path, folder)
        and outputs.isdisjoint(path.parents)
        and (path.parent not in data_sets or path in data_sets[path.parent])
    )
    if not here:
        raise InputError(f"the folder {folder} has no file that can be read ({ENDINGS}); it has {_contents(folder)}")
    return here


def _splits(folder: Path) -> list[str]:
    """The splits of a data set that was saved whole."""
    if not (folder / SPLITS).is_file():
        return []
    named = _json(folder / SPLITS).get("splits")
    names = named if isinstance(named, list) else []
    return [name for name in names if isinstance(name, str) and (folder / name).is_dir()]


def _shards(state: Path) -> set[Path]:
    """The files of a data set that was saved to disk, as it says itself.

    :raises InputError: if its rows are not those of the files, in their order.
    """
    told = _json(state)
    if told.get("_indices_files") or told.get("_indices_data_files"):
        raise InputError(
            f"the data set {state.parent} takes rows from its files by a list of their numbers: "
            "save it anew after flatten_indices()"
        )
    files = told.get("_data_files")
    names = [file.get("filename") for file in files if isinstance(file, dict)] if isinstance(files, list) else []
    return {state.with_name(name) for name in names if isinstance(name, str)}


def _json(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}, which describes the data set, cannot be read: {error}") from None
    return found if isinstance(found, dict) else {}


def _contents(folder: Path) -> str:
    """What a folder has in place of input, for a message."""
    names = sorted(f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir())
    more = f" and {len(names) - _SHOWN_FILES} more" if len(names) > _SHOWN_FILES else ""
    return f"{', '.join(names[:_SHOWN_FILES])}{more}" if names else "nothing in it"


def splits_note(paths: Sequence[InputFile]) -> str | None:
    """A sentence if files of a hub's snapshot that are read together are of several splits: ``train-00000-of-00002.parquet``."""
    found: dict[str, None] = {}
    for path in paths:
        name, _, rest = path.stem.partition("-")
        if "-of-" in rest:
            found[name] = None
    known = [name for name in found if name in ("train", "test", "validation", "dev", "valid", "val")]
    if len(known) < 2:
        return None
    return (
        f"the input has files of several splits, which are all read: {', '.join(known)}; a pattern names one, "
        f"such as '{known[0]}-*{paths[0].suffix}'"
    )


def _is_input(path: Path, folder: Path) -> bool:
    return not _is_hidden(path, folder) and is_known(path) and path.name not in NO_DATA and path.is_file()


def _is_hidden(path: Path, folder: Path) -> bool:
    """So are the files that Excel makes beside those that are open."""
    return any(part.startswith((".", "~$")) for part in path.relative_to(folder).parts)


def _parts(pattern: Path) -> tuple[Path, list[str]]:
    """The folders at the beginning of a pattern that exist, which are no pattern whatever characters they have, and the rest."""
    root, rest = Path(pattern.anchor), list(pattern.relative_to(pattern.anchor).parts)
    while rest and (root / rest[0]).exists():
        root /= rest.pop(0)
    return root, rest


def _glob(pattern: Path) -> Iterator[Path]:
    """Files by a pattern."""
    root, rest = _parts(pattern)
    asks_for_hidden = any(part.startswith(".") for part in rest)
    for path in root.glob("/".join(rest)):
        if path.is_file() and (asks_for_hidden or not _is_hidden(path, root)):
            yield path
