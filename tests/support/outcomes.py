"""Outcomes and requests for tests of what is stored, made of a name and a version, so that equal ones are equal."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from hypothesis import strategies as st

from batchflex.core.types import STATUSES, Outcome, Request
from batchflex.storage import Store, results_table
from tests.support.paths import ROOT

_COUNT = st.none() | st.integers(0, 2**62)
_SECONDS = st.none() | st.floats(0, 1e9)
_TEXT = (
    st.none() | st.text(max_size=40) | st.sampled_from(["\0", "a\nb\r\n", "\u2028\u2029", "🙂" * 50, '"\\"', "\ufeff"])
)


def digest(*parts: object) -> bytes:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()


def outcome(name: object, version: object = 0, **fields: Any) -> Outcome:
    """The answer to ``request(name, version)``."""
    known: dict[str, Any] = {
        "key": digest("key", name, version).hex(),
        "slot": digest("slot", name).hex(),
        "id": f"id-{name}",
        "row": name if isinstance(name, int) else 0,
        "sample": 0,
        "status": "ok",
        "attempts": 1,
        "started_at": 1_700_000_000_000_000,
        "finished_at": 1_700_000_000_500_000,
        "endpoint": "here",
        "run_id": "run-1",
    }
    return Outcome(**(known | fields))


def request(name: object, version: object = 0, row: int | None = None, point: int = 0) -> Request:
    if row is None:
        row = name if isinstance(name, int) else 0
    key, slot = digest("key", name, version), digest("slot", name)
    return Request(key, slot, f"id-{name}", row, point, 0, b"{}", None, None)


def any_outcomes() -> st.SearchStrategy[Outcome]:
    """Anything a row can hold."""
    return st.builds(
        Outcome,
        key=st.binary(min_size=16, max_size=16).map(bytes.hex),
        slot=st.binary(min_size=16, max_size=16).map(bytes.hex),
        id=st.text(max_size=20),
        row=st.integers(0, 2**40),
        sample=st.integers(0, 2**31 - 1),
        status=st.sampled_from(STATUSES),
        attempts=st.integers(0, 1000),
        started_at=st.integers(0, 2**52),
        finished_at=st.integers(0, 2**52),
        endpoint=st.text(max_size=10),
        run_id=st.text(max_size=10),
        content=_TEXT,
        reasoning=_TEXT,
        tool_calls=_TEXT,
        parsed=_TEXT,
        finish_reason=_TEXT,
        model=_TEXT,
        prompt_tokens=_COUNT,
        completion_tokens=_COUNT,
        total_tokens=_COUNT,
        cache_read_input_tokens=_COUNT,
        cache_creation_input_tokens=_COUNT,
        reasoning_tokens=_COUNT,
        cost=_SECONDS,
        latency_s=_SECONDS,
        ttft_s=_SECONDS,
        http_status=st.none() | st.integers(100, 599),
        error_type=_TEXT,
        error_code=_TEXT,
        error_message=_TEXT,
        response=st.none() | st.binary(max_size=40),
        request_id=_TEXT,
    )


def assembled(parts: Store, **options: Any) -> pa.Table:
    """The results made of the parts in a folder."""
    made = results_table.assemble(parts, options.pop("variables", {}), options.pop("labels", ["{}"]), **options)
    found = pa.concat_tables([made.schema.empty_table(), *made.batches])
    assert found.num_rows == made.rows
    assert found.schema.equals(made.schema)
    return found


@contextlib.contextmanager
def small_disk(folder: Path, size: int, kind: Literal["tmpfs", "ext4"] = "tmpfs") -> Iterator[tuple[Path, int]]:
    """A folder on a disk of ``size`` bytes, and 0; where none can be mounted, any folder and a limit on a file's size."""
    folder.mkdir()
    if kind == "tmpfs":
        is_mounted = _succeeds(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)])
    else:
        image = folder.with_suffix(".image")
        image.write_bytes(bytes(size))
        made = _succeeds(["mkfs.ext4", "-q", "-O", "^has_journal", "-m", "0", str(image)])
        is_mounted = made and _succeeds(["mount", "-o", "loop", str(image), str(folder)])
    if not is_mounted:
        yield folder, size
        return
    try:
        yield folder, 0
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _succeeds(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


_LIMIT = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
"""


def run_python(code: str, *arguments: object, file_size: int = 0) -> str:
    """What a child process prints. With ``file_size`` a write beyond that many bytes of a file fails there."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", (_LIMIT.format(size=file_size) if file_size else "") + code]
        + [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
