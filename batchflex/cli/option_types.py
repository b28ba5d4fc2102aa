"""What single options take: paths, numbers, times. Each is a ``type`` of argparse."""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Sequence
from pathlib import Path

_WAIT_WITHOUT_TIME = "--wait="
_MOST = 1_000_000_000  # rows, runs
_LONGEST_PATH, _LONGEST_NAME = 4000, 255


def positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 1 <= number <= _MOST:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {_MOST:,}; found {text!r:.80}")
    return number


def from_0(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) > _MOST:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {_MOST:,}; found {text!r:.80}")
    return int(text)


def above_0(text: str) -> float:
    number = _number(text)
    if number is None or not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, such as 0.02; found {text!r:.80}")
    return number


def share(text: str) -> float:
    number = _number(text)
    if number is None or not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"must be a number between 0 and 1, such as 0.8; found {text!r:.80}")
    return number


def correlation(text: str) -> float:
    number = _number(text)
    if number is None or not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, such as 0.2; found {text!r:.80}")
    return number


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def schedule_kind(text: str) -> str:
    """The crontab goes by the name of what reads it, and Kubernetes by its long one, too."""
    return {"cron": "crontab", "kubernetes": "k8s"}.get(text, text)


def names(text: str) -> list[str]:
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise argparse.ArgumentTypeError("must be names of columns, with commas between them")
    return found


def labels(text: str) -> list[str]:
    try:
        found = list_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not found:
        raise argparse.ArgumentTypeError("must be labels, with commas between them")
    return found


def list_of(text: str) -> list[str]:
    """What stands between commas. What begins with a quote goes to the next, and may have commas, as in a line of CSV.

    :raises ValueError: if such a quote is never closed, or something follows it.
    """
    try:
        found = next(csv.reader([text], skipinitialspace=True, strict=True), [])
    except csv.Error:
        raise ValueError(
            'a label in quotes ends with one, and a comma follows; one with a comma or a quote is written "a, ""b"" or c"'
        ) from None
    return [name.strip() for name in found if name.strip()]


def as_list(names: Sequence[str], separator: str = ",") -> str:
    """The text of which :func:`list_of` makes these."""
    return separator.join(
        '"' + name.replace('"', '""') + '"' if {*",\r\n"} & {*name} or name.startswith('"') else name for name in names
    )


def path(text: str) -> Path:
    return Path(path_text(text))


def folder(text: str) -> Path | str:
    """An output folder: a path, or the URL of one in a bucket, as it was given."""
    return text if "://" in text else path(text)


def path_text(text: str) -> str:
    """A path that file systems may take, as it was given: of a folder with a slash at its end, and patterns."""
    parts = [name.encode("utf-8", "surrogatepass") for name in text.split("/")]
    if not text:
        raise argparse.ArgumentTypeError("a path must not be empty")
    if "\0" in text:
        raise argparse.ArgumentTypeError(f"a path must not contain a NUL character; found {text!r:.80}")
    if len(text) > _LONGEST_PATH or max(map(len, parts)) > _LONGEST_NAME:
        raise argparse.ArgumentTypeError(
            f"a path has {_LONGEST_PATH:,} characters at most, and {_LONGEST_NAME} bytes in one name; found {text!r:.80}"
        )
    return text


def wait_s(text: str) -> float:
    """The seconds of ``--wait``; without a time as long as it takes."""
    if not text:
        return float("inf")
    from ..config import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def with_optional_wait(arguments: Sequence[str]) -> list[str]:
    """The arguments with ``--wait`` as ``--wait=`` where no time follows, so that it can stand before the job."""
    found = list(arguments)
    for number, word in enumerate(found):
        if word == "--":
            break
        after = found[number + 1] if number + 1 < len(found) else ""
        if word == "--wait" and not re.fullmatch(r"\d+(\.\d+)?[A-Za-z]*(\d+[A-Za-z]+)*", after):
            found[number] = _WAIT_WITHOUT_TIME
    return found
