"""Requests leave together when calls are busy, at once when they are not, and each gets its own answer or error."""

import asyncio

import pytest

from pgrpo_ray.actors.gathering import Gathering
from pgrpo_ray.errors import DeadlineError, ModelError, UnavailableError


class Replica:
    """Answers a call once told to; remembers the calls."""

    def __init__(self):
        self.calls, self.go = [], asyncio.Event()

    async def send(self, requests, timeout_s):
        self.calls.append([[text for _, text in items] for items in requests])
        await self.go.wait()
        return "model", [ModelError("bad") if "bad" in str(items) else [len(items)] for items in requests]


def items(*texts):
    return [("p", text) for text in texts]


async def asked(gathering, *requests, timeout_s=5.0):
    tasks = []
    for request in requests:
        tasks.append(asyncio.create_task(gathering.score(items(*request), timeout_s)))
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    return tasks


def test_an_idle_server_sends_at_once_and_a_busy_one_bundles_in_order():
    async def story():
        replica = Replica()
        tasks = await asked(
            Gathering(replica.send, gather=3, max_calls=1),
            *(["a"], ["b"], ["c", "d"], ["e"], ["long"] * 5, ["f"], ["bad"]),
        )
        assert replica.calls == [[["a"]]]
        replica.go.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        return replica.calls, results

    calls, results = asyncio.run(story())
    assert calls == [[["a"]], [["b"], ["c", "d"]], [["e"]], [["long"] * 5], [["f"], ["bad"]]]
    assert [result[1] for result in results[:6]] == [[1], [1], [2], [1], [5], [1]]
    assert isinstance(results[6], ModelError)  # its neighbour in the call was answered


def test_no_more_calls_than_allowed_are_on_their_way():
    async def story():
        replica = Replica()
        tasks = await asked(Gathering(replica.send, gather=1, max_calls=2), *([str(n)] for n in range(6)))
        before = len(replica.calls)
        replica.go.set()
        await asyncio.gather(*tasks)
        return before, len(replica.calls)

    assert asyncio.run(story()) == (2, 6)


def test_who_is_given_up_is_not_sent_and_the_others_go_on():
    async def story():
        replica = Replica()
        gathering = Gathering(replica.send, gather=8, max_calls=1)
        (first,) = await asked(gathering, ["first"])
        (late,) = await asked(gathering, ["late"], timeout_s=0.02)
        (last,) = await asked(gathering, ["last"])
        with pytest.raises(DeadlineError, match=r"1 reasonings within 0.02 s"):
            await late
        replica.go.set()
        await asyncio.gather(first, last)
        return replica.calls

    assert asyncio.run(story()) == [[["first"]], [["last"]]]


@pytest.mark.parametrize("error", [UnavailableError("none", 2.0), ValueError("a defect")])
def test_a_call_that_fails_tells_all_its_requests_and_the_next_one_goes_out(error):
    async def story():
        calls = []

        async def send(requests, timeout_s):
            calls.append(len(requests))
            if len(calls) == 1:
                await asyncio.sleep(0.02)
                raise error
            return "model", [["fine"]] * len(requests)

        tasks = await asked(Gathering(send, gather=8, max_calls=1), ["a"], ["b"], ["c"])
        return calls, await asyncio.gather(*tasks, return_exceptions=True)

    calls, results = asyncio.run(story())
    assert calls == [1, 2]
    assert results == [error, ("model", ["fine"]), ("model", ["fine"])]


def test_a_call_that_is_cancelled_from_within_tells_its_requests_and_the_next_one_goes_out():
    async def story():
        calls = []

        async def send(requests, timeout_s):
            calls.append(len(requests))
            if len(calls) == 1:
                response = asyncio.get_running_loop().create_future()
                asyncio.get_running_loop().call_later(0.02, response.cancel)
                await response
            return "model", [["fine"]] * len(requests)

        tasks = await asked(Gathering(send, gather=8, max_calls=1), ["a"], ["b"], ["c"], timeout_s=1.0)
        return calls, await asyncio.gather(*tasks, return_exceptions=True)

    calls, results = asyncio.run(story())
    assert calls == [1, 2]
    assert isinstance(results[0], UnavailableError)
    assert results[1:] == [("model", ["fine"]), ("model", ["fine"])]


def test_at_the_end_of_the_loop_nothing_new_goes_out():
    calls = []

    async def send(requests, timeout_s):
        calls.append(len(requests))
        await asyncio.sleep(60)

    async def story():
        return await asked(Gathering(send, gather=1, max_calls=1), ["a"], ["b"])

    tasks = asyncio.run(story())
    assert calls == [1]
    assert all(task.cancelled() for task in tasks)
