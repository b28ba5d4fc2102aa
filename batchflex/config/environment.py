"""The variables that a job may use: those of the process, then those of a file ``.env``.

The process's own environment is not changed, so that nothing of the file reaches the programs that it starts.
"""

from __future__ import annotations

import io
import os
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from ..core import JobError
from .path_variables import expanded
from .secrets_check import is_called_a_key

_NAME = ".env"


class Environment(Mapping[str, str]):
    """The value of each variable: that of the process, even if it is empty; else that of the ``file``, if one was read.

    ``invalid`` are the lines of the file that are not NAME=VALUE.
    """

    def __init__(
        self, file: Path | None = None, inside: Mapping[str, str] | None = None, invalid: Sequence[int] = ()
    ) -> None:
        self.file = file
        self._inside = dict(inside or {})
        self._invalid = invalid

    def __getitem__(self, name: str) -> str:
        value = os.environ.get(name)
        return self._inside[name] if value is None else value

    def __iter__(self) -> Iterator[str]:
        return iter({**self._inside, **os.environ})

    def __len__(self) -> int:
        return len({**self._inside, **os.environ})

    def __repr__(self) -> str:
        return f"Environment({self.file})"

    def is_in_file(self, name: str) -> bool:
        """Whether a process without this variable would find it in the file."""
        return bool(self._inside.get(name, "").strip())

    def origin(self, name: str) -> str:
        """The name of a variable, followed by the file if its value is from there."""
        return f"{name} in {self.file}" if name in self._inside and name not in os.environ else name

    def secrets(self, named: Collection[str]) -> set[str]:
        """The values of variables that hold keys: those ``named``, any whose name ends in ``API_KEY``, and those of the file
        that are named like a key."""
        names = {name for name in self if name in named or name.endswith("API_KEY")}
        names |= {name for name in self._inside if is_called_a_key(name)}
        return {value for name in names if (value := self[name].strip())}

    def warnings(self, named: Collection[str]) -> list[str]:
        """A sentence for each problem with the file."""
        if self.file is None:
            return []
        found = [f"{self.file}, line {line}: not NAME=VALUE, so it is passed over" for line in self._invalid]
        if any(name in named or is_called_a_key(name) for name in self._inside) and (open_ := exposed(self.file)):
            found.append(f"{self.file} holds a key, and {open_}")
        return found


def credential(environ: Mapping[str, str], variable: str) -> str:
    """The credential that systemd gives a service by ``LoadCredential=VARIABLE:FILE``; empty if there is none.

    :raises OSError: if it cannot be read.
    """
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        return ""
    try:
        return (Path(folder) / variable).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except UnicodeDecodeError:
        return "\0"  # refused as any other text that it cannot be


def exposed(path: Path) -> str | None:
    """A warning that users other than its owner may read a file, with what to do; ``None`` if they may not."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return None
    if not mode & 0o077:
        return None
    return f"others than its owner may read it; forbid that: chmod 600 {shlex.quote(str(path))}"


def environment_of(
    data: Mapping[str, object], settings: Sequence[tuple[str, object]], folder: Path | None, *, lenient: bool = False
) -> Environment:
    """The variables of a job: with the file that ``job.env_file`` names, else with ``.env`` in ``folder``, if there is one.

    A relative path in ``settings`` is resolved against the current folder, one in ``data`` against ``folder``. With ``lenient``
    it is no error if the file that is named does not exist.

    :raises JobError: if the file cannot be read, or is named and not there.
    """
    section = data.get("job")
    named, base = section.get("env_file") if isinstance(section, Mapping) else None, folder or Path()
    for place, value in settings:
        if place == "job.env_file":
            named, base = value, Path()
    if isinstance(named, str) and named:
        try:
            file = base.absolute() / Path(expanded(named, Environment())).expanduser()
        except (ValueError, RuntimeError) as error:
            raise JobError(f"job.env_file: {error}") from None
        if _is_there(file):
            return _read(file)
        if not lenient:
            raise JobError(f"there is no file {file} (job.env_file)")
    if folder is not None and _is_there(file := folder.absolute() / _NAME):
        return _read(file)
    return Environment()


def _is_there(file: Path) -> bool:
    try:
        return file.exists() and not file.is_dir()  # a pipe will do: that is how some keep their keys off the disk
    except (OSError, ValueError):
        return False


def _read(file: Path) -> Environment:
    from dotenv import dotenv_values
    from dotenv.parser import parse_stream

    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror or error
        raise JobError(f"the environment file {file} cannot be read: {why}") from None
    statements = list(parse_stream(io.StringIO(text)))
    invalid = [statement.original.line for statement in statements if statement.error]
    sound = "".join(statement.original.string for statement in statements if not statement.error)
    values = dotenv_values(stream=io.StringIO(sound))
    return Environment(file, {name: value for name, value in values.items() if value is not None}, invalid)
