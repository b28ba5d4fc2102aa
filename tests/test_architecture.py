"""Who may know of whom, and which module alone may do what; read from the source."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import batchflex

PACKAGE = Path(batchflex.__file__).parent
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")

# The way of the data. A module imports only from those before it.
ORDER = [
    "allocation", "signals", "model", "errors", "params", "tomltext", "redaction", "mistakes", "events", "paths", "dated",
    "keychecks", "environment",
    "spans", "sections", "scorespec", "ends", "notifyspec", "models", "structured",
    "schemachecks", "sweep", "sweepchecks", "crosschecks", "job", "jobchanges",
    "readers", "source", "template", "items", "prefixes", "places", "plan", "catalog",
    "ratelimit", "metrics", "heads",
    "budget", "prices", "estimate", "lessons", "quota", "concurrency", "pace", "gate", "outage",
    "hook", "rules", "classify", "failures", "message", "endings",
    "endpoint", "keycommand", "completion",
    "content_coding", "connection", "http1", "transport", "client", "tries", "reask", "quirks", "outcome",
    "courtesy", "folder", "catalogs", "journal", "carried", "parsed", "numbering", "store", "room", "keyindex", "void", "keyset",
    "superseded", "merge", "table", "unfit", "resume",
    "standing", "inputs", "retention", "since",
    "feed", "keep", "substitutes", "tally", "attempts",
    "stats", "reading", "scoring", "functions", "spending", "ledger", "summary", "frames", "pairing", "scores", "sides",
    "results", "prepare", "accounts", "lanes", "probing", "opening", "ways", "verdicts", "asking", "telemetry", "runner",
    "judging", "evaluation", "assembly", "compact", "contents", "condition", "choosing", "selecting", "settings", "again",
    "notices", "webhook", "metricsfile", "errands", "notifier", "api",
    "reparse", "cells", "writers", "splitting", "openai_batch", "export", "render", "checking", "scoretext",
    "throttle", "loglines", "logs", "progress", "rotation", "logbook", "forecast", "turn", "history", "historytext",
    "scored", "breakdown", "timeline", "excerpt", "digest", "verdict", "canvas", "charts", "speed", "chapters",
    "vega", "page", "report",
    "cron", "zones", "nexttimes", "launch", "crontab", "systemd", "kubernetes", "schedule",
    "local_server", "options", "cli",
]  # fmt: skip

# What faces people: nothing that a run consists of may lean on it.
FACING_PEOPLE = {
    "throttle", "loglines", "logs", "rotation", "logbook",
    "cli", "progress", "render", "scoretext", "forecast", "turn", "history", "historytext", "checking",
    "local_server", "options", "writers", "splitting", "openai_batch", "export",
    "scored", "breakdown", "timeline", "excerpt", "digest", "verdict", "canvas", "charts", "speed", "chapters",
    "vega", "page", "report",
    "cron", "zones", "nexttimes", "launch", "crontab", "systemd", "kubernetes", "schedule",
}  # fmt: skip
CORE = [name for name in MODULES if name not in FACING_PEOPLE]
# These decide or describe; time and the world come in as arguments.
PURE = [
    "redaction", "events", "throttle", "loglines",
    "model", "models", "params", "paths", "dated", "keychecks", "spans", "schemachecks",
    "sweep", "sweepchecks", "jobchanges", "prefixes", "places", "plan", "template",
    "ratelimit", "metrics", "heads",
    "catalog", "budget", "prices", "estimate", "lessons", "quota", "concurrency", "pace", "outage", "failures",
    "rules", "classify", "message", "endings",
    "completion", "tries", "structured", "reask", "quirks", "outcome", "carried", "parsed", "telemetry",
    "substitutes", "scorespec", "ends", "notifyspec", "notices", "stats", "reading", "spending", "ledger", "summary", "pairing",
    "cells", "splitting", "openai_batch", "timeline", "verdict", "canvas", "charts", "speed", "chapters",
    "cron", "nexttimes", "launch", "crontab", "systemd", "kubernetes",
]  # fmt: skip


@functools.cache
def tree(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))


def imported(module: str) -> Iterator[tuple[str, int]]:
    """Every module that is imported anywhere in ``module``, with the line; those of the package as ``.name``."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or "", node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield f".{node.module}", node.lineno
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if alias.name in MODULES:
                    yield f".{alias.name}", node.lineno


def users_of(*libraries: str) -> set[str]:
    return {module for module in MODULES for name, _ in imported(module) if name.partition(".")[0] in libraries}


def calls(module: str, names: set[str]) -> list[str]:
    """Where ``module`` calls something of one of these names, as ``name (line)``."""
    found = []
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if name in names:
                found.append(f"{name} ({node.lineno})")
    return found


def loaded_by(*modules: str) -> set[str]:
    """The top-level modules that are there once these have been imported in a fresh interpreter."""
    program = f"import {', '.join(modules)}, sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.split())


def test_every_module_has_its_place_in_the_order() -> None:
    assert sorted(ORDER) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_those_before_it(module: str) -> None:
    before = {f".{name}" for name in ORDER[: ORDER.index(module)]}
    wrong = [f"{name} (line {line})" for name, line in imported(module) if name.startswith(".") and name not in before]
    assert not wrong


@pytest.mark.parametrize("module", CORE)
def test_the_core_knows_nothing_of_what_faces_people(module: str) -> None:
    assert not {name for name, _ in imported(module)} & {f".{name}" for name in FACING_PEOPLE}


def test_journal_and_store_do_not_know_of_each_other() -> None:
    for one, other in (("journal", "store"), ("store", "journal")):
        assert f".{other}" not in {name for name, _ in imported(one)}


def test_only_the_client_its_transport_and_the_webhook_know_httpx() -> None:
    """The webhook sends from a thread beside a run or after it, where an event loop's connections are of no use."""
    assert users_of("httpx") == {"client", "transport", "connection", "http1", "webhook"}


def test_only_the_connections_know_their_parser() -> None:
    assert users_of("httptools") == {"connection"}
    assert users_of("aiohappyeyeballs") == {"http1"}


def test_only_the_metrics_file_knows_prometheus() -> None:
    assert users_of("prometheus_client") == {"metricsfile"}


def test_only_the_terminal_has_tqdm() -> None:
    assert users_of("tqdm") == {"progress"}


@pytest.mark.parametrize("module", ["plan", "pace", "model"])
def test_plan_pace_and_model_know_no_network_no_event_loop_and_no_table(module: str) -> None:
    assert not loaded_by(f"batchflex.{module}") & {"httpx", "httptools", "anyio", "pyarrow", "polars"}


@pytest.mark.parametrize("module", PURE)
def test_what_is_pure_reads_no_clock_and_no_file(module: str) -> None:
    names = {name.partition(".")[0] for name, _ in imported(module)}
    assert not names & {"time", "os", "pathlib", "io", "socket", "subprocess", "threading", "asyncio", "anyio"}
    assert not calls(module, {"now", "utcnow", "today", "open"})


def test_only_the_report_draws() -> None:
    assert users_of("altair") == {"canvas", "charts", "speed", "vega"}
    assert users_of("vl_convert") == {"vega"}


def test_errors_of_attempts_are_made_in_one_place() -> None:
    kinds = {"AttemptError", "Transient", "Deferred", "RateLimited", "RowFault", "RunFault"}
    assert {module for module in MODULES if calls(module, kinds)} == {"classify"}


def test_only_the_command_line_prints() -> None:
    assert {module for module in MODULES if calls(module, {"print"})} <= {"cli", "local_server"}


def test_only_the_command_line_reads_its_arguments_and_ends_the_process() -> None:
    assert users_of("argparse") == {"cli", "options"}
    assert {module for module in MODULES if calls(module, {"exit", "_exit"})} <= {"cli", "options", "local_server"}


def test_importing_the_package_or_the_command_line_is_quick() -> None:
    """The heavy libraries are imported by what needs them, so that ``--help`` and ``status`` do not wait for them."""
    heavy = {"polars", "pyarrow", "httpx", "httptools", "pydantic", "anyio", "jinja2", "tqdm", "msgspec", "numpy"}
    assert not loaded_by("batchflex", "batchflex.cli") & heavy


def test_everything_that_the_package_offers_is_there() -> None:
    for name in batchflex.__all__:
        assert getattr(batchflex, name) is not None
    assert set(batchflex.__all__) <= set(dir(batchflex))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        batchflex.nothing  # noqa: B018 - the access itself is what is tested
