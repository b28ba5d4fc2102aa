"""How the shards of a job stand, all together: one ``run.json`` of many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..core import STATUSES
from .output_folder import Folder
from .run_state import COUNTS

_SHOWN = 8
_ADDED_UP = ("done", *STATUSES, *(name for name in COUNTS if name != "cost"))


class ShardState(NamedTuple):
    """The ``run.json`` of a shard, and whether a process is at work in it."""

    number: int
    state: Mapping[str, Any]
    held: bool


def of_folder(folder: Folder) -> tuple[int, list[ShardState]] | None:
    """Of the division that ran last: how many shards it has, and those that have begun, each with what its earlier runs have
    done. ``None`` if the last run was no shard's."""
    by_division: dict[int, list[ShardState]] = {}
    for (number, of), shard in folder.shards().items():
        if state := shard.read_state():
            earlier = [line for line in shard.past_runs() if line.get("run_id") != state["run_id"]]
            by_division.setdefault(of, []).append(ShardState(number, _added_up(state, earlier), shard.is_held()))
    if not by_division:
        return None
    return max(by_division.items(), key=lambda item: max(each.state["updated_at"] for each in item[1]))


def state_of(folder: Folder) -> dict[str, Any]:
    """``run.json``, or that of all shards where these ran last; empty if there is none."""
    division = of_folder(folder)
    return folder.read_state() if division is None else together(str(folder.path), *division)


def _added_up(state: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The state of a shard's last run with the rows of its earlier ones. No run asks what another has answered."""
    added = {name: sum(line.get(name) or 0 for line in (state, *earlier)) for name in _ADDED_UP}
    planned = state["planned"]
    if planned is not None:
        planned += sum(line.get("done") or 0 for line in earlier)
    return {**state, **added, "planned": planned, "cost": _cost([state, *earlier])}


def together(out: str, of: int, shards: Sequence[ShardState]) -> dict[str, Any]:
    """A ``run.json`` of all of them: counts are added up. Pure.

    It is ``running`` while one is at work, ``finished`` once all have. ``shards`` has ``of``, how many are ``finished`` and
    ``running``, and the numbers of those that are ``stopped`` (killed ones with them) and that have ``not_begun``.
    """
    states = [each.state for each in shards]
    last = max(states, key=lambda state: str(state["updated_at"]))
    running = [each.number for each in shards if each.held]
    stopped = [each.number for each in shards if not each.held and each.state["status"] != "finished"]
    begun = {each.number for each in shards}
    not_begun = [number for number in range(of) if number not in begun]
    finished = len(shards) - len(running) - len(stopped)
    status = "running" if running else "finished" if finished == of else "stopped"
    words = []
    if stopped:
        first = next(each.state for each in shards if each.number == stopped[0])
        why = first["message"] or "it was killed"
        words.append(f"{_numbers(stopped)} did not finish ({stopped[0]}: {why})")
    if not_begun:
        words.append(f"{_numbers(not_begun)} {'has' if len(not_begun) == 1 else 'have'} not begun")
    message = None if status != "stopped" else f"{'; '.join(words)}. Run these again"
    planned = [state["planned"] for state in states]
    summed = (*_ADDED_UP, "done_before", "in_flight", "substituted")
    return {
        **last,
        "status": status,
        "stopped_by": "shards" if status == "stopped" else None,
        "message": message,
        "first_failure": next((state["first_failure"] for state in states if state["first_failure"]), None),
        "exit_code": None if running else max((state["exit_code"] or 0) for state in states) if finished == of else 3,
        "started_at": min(str(state["started_at"]) for state in states),
        "finished_at": None if running else last["updated_at"],
        "planned": None if None in planned or not_begun else sum(planned),
        **{name: sum(state.get(name, 0) for state in states) for name in summed},
        "cost": _cost(states),
        "out": out,
        "results": "",
        "shards": {
            "of": of, "finished": finished, "running": len(running), "stopped": stopped, "not_begun": not_begun,
        },
    }  # fmt: skip


def _cost(states: Sequence[Mapping[str, Any]]) -> float | None:
    costs = [state["cost"] for state in states if state.get("cost") is not None]
    return sum(costs) if costs else None


def _numbers(shards: Sequence[int]) -> str:
    shown = ", ".join(map(str, shards[:_SHOWN]))
    more = f" and {len(shards) - _SHOWN} more" if len(shards) > _SHOWN else ""
    return f"shard{'' if len(shards) == 1 else 's'} {shown}{more}"
