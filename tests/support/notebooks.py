"""Real notebooks: cells executed in a kernel of Jupyter, as a browser would have them executed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient


class Kernel:
    """One kernel in a folder, with the cells that were executed there."""

    def __init__(self, client: NotebookClient) -> None:
        self._client = client
        self._loop = asyncio.get_event_loop_policy().get_event_loop()

    def cell(self, source: str) -> list[Any]:
        """The outputs of a cell; that of an error is one of them."""
        cells = self._client.nb.cells
        cells.append(nbformat.v4.new_code_cell(source))
        return list(self._client.execute_cell(cells[-1], len(cells) - 1, store_history=True).outputs)

    def interrupt(self) -> None:
        """As the square button does. From any thread."""
        asyncio.run(self._client.km.interrupt_kernel())

    @property
    def widgets(self) -> list[dict[str, Any]]:
        """The states of all widgets, in the order in which they were made."""
        return list(self._client.widget_state.values())


@contextlib.contextmanager
def kernel(folder: Path, before: str = "") -> Iterator[Kernel]:
    """A kernel that works in ``folder``; ``before`` is executed first."""
    notebook = nbformat.v4.new_notebook()
    where = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources=where, allow_errors=True, shutdown_kernel="immediate"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of jupyter_client and zmq are not ours
        with client.setup_kernel():
            made = Kernel(client)
            if before:
                made.cell(before)
            yield made


def sources(path: Path) -> list[str]:
    """The code of a notebook, a text for each cell."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def text(outputs: list[Any], name: str = "stdout") -> str:
    return "".join(each["text"] for each in outputs if each["output_type"] == "stream" and each["name"] == name)


def data(outputs: list[Any], kind: str) -> list[str]:
    """What is shown in one of its forms: ``text/html``, ``text/plain``, a widget."""
    return [each["data"][kind] for each in outputs if kind in each.get("data", {})]


def error(outputs: list[Any]) -> tuple[str, str] | None:
    return next(((each["ename"], each["evalue"]) for each in outputs if each["output_type"] == "error"), None)
