"""Who may know of whom, and which module alone may do what; read from the source.

The layers, and that report, notify and schedule do not know each other, are a contract of import-linter (``pyproject.toml``),
which ``make lint`` checks.
"""

from __future__ import annotations

import ast
import functools
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import batchflex

ROOT = Path(batchflex.__file__).parent
PACKAGES = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))
# As in "endpoint.client".
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in ROOT.rglob("*.py")
    if path.stem not in ("__init__", "__main__")
)
# These decide or describe; time and the world come in as arguments.
PURE = {
    "core": "cell_values events format frames message pandas_frames redact safe_text text_tables timings types",
    "protocol": (
        "chat chat_export chat_message chat_route chat_stream classify error_body event_stream failure_evidence failure_rules "
        "failure_text finish_reasons json_answers json_values loose_json openai_batch parameters pydantic_models "
        "rate_limit_headers reask response_headers route routes"
    ),
    "attachments": "errors file_hosts options tokens",
    "config": (
        "choices commented_job dated_path diff durations endpoint_section fields job_checks mistake_messages "
        "notify_sections parameter_tables partial_job path_variables run_outcomes score_sections secrets_check sections "
        "settings sweep sweep_checks"
    ),
    "storage": "carried_columns parsed_columns places record model_substitutes positions thrift",
    "plan": "encodings file_filters frame_input planner prefix_order row_prompts sharegpt template",
    "endpoint": (
        "circuit_breaker concurrency_limit cost key_slots model_list pacer price_list "
        "queue_metrics quirks quota quota_from_headers quota_from_refusals quota_window retry_policy"
    ),
    "results": "answer_columns splitting",
    "scoring": (
        "agreement clusters comparison extract ledger many_tests paper_tables power readable score_text spending stats student_t "
        "summary sweep_comparison"
    ),
    "engine": "budget estimate failure_limit host_health telemetry",
    "display": "run_html run_text",
    "report": "canvas charts sections speed timeline headline",
    "notify": "messages",
    "schedule": "cron_expression crontab kubernetes launch next_times systemd",
    "cli": "log_filter log_format",
}
MOST_LINES = 450
PURE_MODULES = [f"{package}.{name}" for package, names in PURE.items() for name in names.split()]


@functools.cache
def tree(module: str) -> ast.Module:
    return ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))


@functools.cache
def imported(module: str) -> list[tuple[str, str, int]]:
    return list(_imports(module))


def _imports(module: str) -> Iterator[tuple[str, str, int]]:
    """All that is imported anywhere in ``module``: from where, which name, and the line. Of the package as ``batchflex.…``."""
    here = ["batchflex", *module.split(".")]
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, "", node.lineno
        elif isinstance(node, ast.ImportFrom):
            within = here[: -node.level] if node.level else []
            for alias in node.names:
                yield ".".join([*within, *filter(None, [node.module])]), alias.name, node.lineno


def users_of(*libraries: str) -> set[str]:
    return {module for module in MODULES for name, _, _ in imported(module) if name.partition(".")[0] in libraries}


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


def test_nothing_lies_flat_but_what_people_import() -> None:
    assert [module for module in MODULES if "." not in module] == ["api"]


def test_no_output_folder_of_a_run_lies_among_the_sources() -> None:
    assert [path.parent.name for path in ROOT.parent.glob("*/run.json")] == []


def test_no_module_is_longer_than_can_be_read_at_once() -> None:
    lengths = {m: len((ROOT / f"{m.replace('.', '/')}.py").read_text().splitlines()) for m in MODULES}
    assert {m: n for m, n in lengths.items() if n > MOST_LINES} == {}


def test_every_package_has_a_layer() -> None:
    settings = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    named = {name.strip(" ()").removeprefix("batchflex.") for layer in layers for name in layer.split("|")}
    assert named == {*PACKAGES, "api"}
    assert {name.removeprefix("batchflex.") for name in settings["tool"]["setuptools"]["packages"]} == {
        "batchflex",
        "report.assets",  # data
        *PACKAGES,
    }


@pytest.mark.parametrize("module", MODULES)
def test_across_packages_only_what_is_offered_is_used(module: str) -> None:
    own = f"batchflex.{module.rpartition('.')[0]}"
    for origin, name, line in imported(module):
        parts = origin.split(".")
        if parts[0] == "batchflex" and len(parts) > 1 and parts[1] in PACKAGES and ".".join(parts[:2]) != own:
            assert len(parts) == 2 or origin == "batchflex.core.lazy", f"line {line}: import {name} from {parts[1]}"
            assert len(parts) > 2 or name in importlib.import_module(origin).__all__, f"line {line}: {name}"


@pytest.mark.parametrize("package", PACKAGES)
def test_all_that_a_package_offers_is_there_and_used(package: str) -> None:
    offered = importlib.import_module(f"batchflex.{package}")
    used = {name for module in MODULES for origin, name, _ in imported(module) if origin == f"batchflex.{package}"}
    for name in getattr(offered, "__all__", ()):
        assert getattr(offered, name) is not None
        assert name in used, f"{name} is offered, and no other package uses it"


def test_journal_and_parts_do_not_know_of_each_other() -> None:
    for one, other in (("storage.journal", "parts"), ("storage.part_files", "journal")):
        assert other not in {name for _, name, _ in imported(one)} | {
            where.rpartition(".")[2] for where, _, _ in imported(one)
        }


def test_only_what_talks_to_servers_knows_httpx() -> None:
    """The webhook sends from a thread beside a run or after it, where an event loop's connections are of no use.
    So does planning, for the files that it reads from the web."""
    here = ("client", "transport", "connection", "http1", "file_fetcher")
    assert users_of("httpx") == {
        *(f"endpoint.{name}" for name in here),
        "notify.webhook",
        "storage.web_files",
        "storage.web_session",
    }


def test_only_the_connections_know_their_parser() -> None:
    assert users_of("httptools") == {"endpoint.connection"}
    assert users_of("aiohappyeyeballs") == {"endpoint.http1"}


def test_only_the_metrics_file_knows_prometheus() -> None:
    assert users_of("prometheus_client") == {"notify.prometheus"}


def test_only_the_bar_knows_tqdm() -> None:
    assert users_of("tqdm") == {"display.progress"}


def test_only_frames_know_other_libraries_of_frames() -> None:
    assert users_of("pandas") == {"core.pandas_frames"}
    assert users_of("narwhals") == {"core.frames"}


@pytest.mark.parametrize("module", ["plan.planner", "endpoint.pacer", "core.types"])
def test_planner_pacer_and_types_know_no_network_no_event_loop_and_no_table(module: str) -> None:
    assert not loaded_by(f"batchflex.{module}") & {"httpx", "httptools", "anyio", "pyarrow", "polars"}


@pytest.mark.parametrize("module", PURE_MODULES)
def test_what_is_pure_reads_no_clock_and_no_file(module: str) -> None:
    names = {name.partition(".")[0] for name, _, _ in imported(module)}
    assert not names & {"time", "os", "pathlib", "io", "socket", "subprocess", "threading", "asyncio", "anyio"}
    assert not calls(module, {"now", "utcnow", "today", "open"})


def test_only_attachments_read_images_and_documents() -> None:
    assert users_of("PIL") | users_of("pypdf") == {"attachments.documents", "attachments.images"}


def test_only_the_report_draws() -> None:
    assert users_of("altair") == {f"report.{name}" for name in ("canvas", "charts", "speed", "vega")}
    assert users_of("vl_convert") == {"report.vega"}


def test_errors_of_attempts_are_made_in_one_place() -> None:
    kinds = {"AttemptError", "Transient", "Deferred", "KeyReplaced", "RateLimited", "RowFault", "RunFault"}
    assert {module for module in MODULES if calls(module, kinds)} == {"protocol.classify"}


def test_only_the_command_line_prints() -> None:
    assert {module for module in MODULES if calls(module, {"print"})} <= {"cli.output", "endpoint.local_server"}


def test_only_the_command_line_reads_its_arguments_and_ends_the_process() -> None:
    assert {module.partition(".")[0] for module in users_of("argparse")} == {"cli"}
    assert {module for module in MODULES if calls(module, {"add_argument"})} == {"cli.options"}
    assert {module for module in MODULES if calls(module, {"exit", "_exit"})} <= {
        "cli.interrupts",
        "cli.main",
        "cli.options",
        "cli.verbs_run",
        "endpoint.local_server",
        "cluster.worker",  # processes of their own
        "storage.helper_main",
    }


def test_the_helper_process_of_a_run_loads_only_what_it_needs() -> None:
    loaded = loaded_by("batchflex.storage.helper_main", "batchflex.storage.part_files", "batchflex.storage.journal")
    assert not loaded & {"polars", "httpx", "pydantic", "anyio", "jinja2", "asyncio", "pandas", "subprocess"}


def test_importing_the_package_or_the_command_line_is_quick() -> None:
    """The heavy libraries are imported by what needs them, so that ``--help`` and ``status`` do not wait for them."""
    heavy = {"polars", "pyarrow", "httpx", "httptools", "pydantic", "anyio", "jinja2", "tqdm", "msgspec", "numpy"}
    assert not loaded_by("batchflex", "batchflex.cli.main") & heavy


def test_everything_that_the_library_offers_is_there() -> None:
    for name in batchflex.__all__:
        assert getattr(batchflex, name) is not None
    assert set(batchflex.__all__) <= set(dir(batchflex))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        batchflex.nothing  # noqa: B018 - the access itself is what is tested
