"""What cannot be asked, as far as it is looked at before anything is sent. Pure."""

from __future__ import annotations

from ..config import Job, unbounded
from ..core import InputError, Request

_PREFLIGHT_REQUESTS = 10_000
_FILE_BYTES_A_ROW = 100_000  # read to hash a file take as long as some row or other
_SHOWN_FAULTS = 5


class UnusableRows:
    """Rows of which no request can be made, and files that cannot be sent: among the first rows, before anything is sent."""

    def __init__(self, job: Job) -> None:
        self._stop = job.input.on_bad_row == "stop"
        self._limits = job.limits
        self._left = _PREFLIGHT_REQUESTS if self._stop else 0
        self._faults: dict[str, None] = {}
        self._sound = 0
        self._files = _FileFaults()

    def note(self, requests: list[Request], passed: int) -> bool:
        """Note the faults of a block; false once enough was looked at."""
        if self._left <= 0:
            return False
        sizes = (file.size for request in requests for file in request.files)
        self._left -= passed + sum(sizes) // _FILE_BYTES_A_ROW
        self._files.note(requests, passed)
        faults = [r.fault or unbounded(self._limits, r) for r in requests]
        self._faults |= {fault: None for fault in faults if fault is not None}
        self._sound += sum(1 for fault in faults if fault is None)
        return True

    def check(self) -> None:
        """:raises InputError: if a fault was found, or none of the files that rows name can be sent."""
        if not self._faults:
            return self._files.check()
        shown = list(self._faults)[:_SHOWN_FAULTS]
        more = len(self._faults) - len(shown)
        if more:
            shown.append(f"… and {more} more")
        what = shown[0] if len(shown) == 1 else "some rows cannot be asked:\n  - " + "\n  - ".join(shown)
        todo = "Nothing was sent."
        if self._sound:
            todo += (
                " Mend the input or the template; or give such rows the status 'failed' and ask the others: "
                '--set input.on_bad_row=fail, on_bad_row = "fail" under [input], or from Python '
                'settings={"input.on_bad_row": "fail"}'
            )
        raise InputError(f"{what}\n{todo}")


class _FileFaults:
    """Files that cannot be sent. Each is its row's own fault, which stops nothing; but if it is so of all, the job is wrong."""

    def __init__(self) -> None:
        self._requests = 0  # that put files in
        self._faults: list[str] = []
        self._is_fresh = True  # nothing was answered before

    def note(self, requests: list[Request], passed: int) -> None:
        self._is_fresh = self._is_fresh and len(requests) == passed
        self._requests += sum(1 for request in requests if request.files)
        self._faults += [fault for request in requests if (fault := request.file_fault) is not None]

    def check(self) -> None:
        if not self._faults or len(self._faults) < self._requests or not self._is_fresh:
            return
        if len(self._faults) == 1:
            what = f"the file of the only row that names one cannot be sent: {self._faults[0]}"
        else:
            shown = "\n  - ".join(
                [*self._faults[:_SHOWN_FAULTS], *(["…"] if len(self._faults) > _SHOWN_FAULTS else [])]
            )
            what = f"none of the files that rows name can be sent ({len(self._faults):,} looked at):\n  - {shown}"
        raise InputError(
            f"{what}\nNothing was sent. Paths are relative to the folder of the input, or to input.files if that is set"
        )
