"""Which models are served where."""

from __future__ import annotations

import anyio
import pytest

from batchflex.config.sections import LimitsSection
from batchflex.endpoint.circuit_breaker import CircuitBreaker
from batchflex.endpoint.client import Client
from batchflex.endpoint.concurrency_limit import ConcurrencyLimit
from batchflex.endpoint.cost import Cost
from batchflex.endpoint.pacer import Allowance, Pacer
from batchflex.endpoint.provider import Endpoint
from batchflex.engine.admission import Admission
from batchflex.engine.budget import Budget
from batchflex.engine.endpoint_pool import EndpointPool
from batchflex.engine.endpoint_state import EndpointState
from batchflex.engine.gate import Gate

pytestmark = pytest.mark.anyio


async def test_while_it_is_in_question_whether_a_model_is_there_rows_of_others_go_on() -> None:
    endpoint = Endpoint("a", "http://127.0.0.1:9/v1")
    pacer = Pacer(ConcurrencyLimit(3, fixed=True), Allowance(None, None))
    state = EndpointState(endpoint, pacer, Client(endpoint), CircuitBreaker(60.0))
    admission = Admission([state])
    gate = Gate(admission, Budget(LimitsSection()), 100, lambda reason, why: None)
    admission.prove(state)
    async with anyio.create_task_group() as tasks:
        pool = EndpointPool([state], admission, [], tasks, lambda event: None, LimitsSection())
        pool.question(state, "gone", is_open=True)
        entered: list[str] = []

        async def enter(model: str) -> None:
            if await gate.enter(Cost(0, 0, 0, 0.0, model=model)) is not None:
                entered.append(model)

        tasks.start_soon(enter, "gone")
        tasks.start_soon(enter, "m")
        await anyio.wait_all_tasks_blocked()
        assert entered == ["m"]
        pool.question(state, "gone", is_open=False)
        await anyio.wait_all_tasks_blocked()
        assert entered == ["m", "gone"]
