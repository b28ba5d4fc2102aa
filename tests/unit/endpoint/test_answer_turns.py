"""Answers that come at once are spread over turns of the event loop."""

import asyncio

from batchflex.endpoint.answer_turns import AnswerTurns


def test_the_loop_comes_round_to_other_things_between_many_answers():
    async def main() -> None:
        loop, turns = asyncio.get_running_loop(), AnswerTurns()
        waiters = [loop.create_future() for _ in range(1000)]
        seen = []

        def look() -> None:
            seen.append(sum(waiter.done() for waiter in waiters))
            if seen[-1] < len(waiters):
                loop.call_soon(look)

        for waiter in waiters:
            turns.wake(waiter)
        look()
        await asyncio.wait_for(asyncio.gather(*waiters), 10)
        steps = [after - before for before, after in zip([0, *seen], seen, strict=False)]
        assert max(steps) == 64
        assert sum(steps) == 1000

    asyncio.run(main())


def test_they_are_woken_in_their_order_and_those_that_were_given_up_are_passed_over():
    async def main() -> None:
        loop, turns = asyncio.get_running_loop(), AnswerTurns()
        waiters = [loop.create_future() for _ in range(200)]
        order: list[int] = []
        for number, waiter in enumerate(waiters):
            waiter.add_done_callback(lambda _, number=number: order.append(number))
            turns.wake(waiter)
        waiters[100].cancel()
        await asyncio.wait_for(asyncio.gather(*waiters, return_exceptions=True), 10)
        await asyncio.sleep(0)
        assert [number for number in order if number != 100] == [number for number in range(200) if number != 100]
        assert waiters[100].cancelled()
        waiter = loop.create_future()
        turns.wake(waiter)  # the next one is woken at once
        assert waiter.done()

    asyncio.run(main())
