"""Waiting requests share a query, and large ones make no other request wait."""

import asyncio
from typing import cast

import pytest

from worker.broker.deliveries import Delivery
from worker.requests.queue import PendingRequest, RequestQueue

CLAIMS_MAX = 1_000


def pending(claims: int) -> PendingRequest:
    return PendingRequest(cast(Delivery, None), None, claims, arrived_at_s=0, expires_at_s=0, given_up_at_s=0)


def filled(*claims: int, large_max: int = 1) -> tuple[RequestQueue, list[PendingRequest]]:
    """A queue with requests that name this many claims."""
    queue = RequestQueue(CLAIMS_MAX, large_max)
    requests = [pending(number) for number in claims]
    for request in requests:
        queue.put(request)
    return queue, requests


async def test_waiting_requests_share_a_query_in_their_order() -> None:
    queue, requests = filled(1, 500, 2)
    assert await queue.take() == requests


@pytest.mark.parametrize(("last", "count"), [(1, 2), (2, 1)])
async def test_a_query_has_at_most_claims_max(last: int, count: int) -> None:
    queue, requests = filled(CLAIMS_MAX - 1, last)
    assert await queue.take() == requests[:count]


async def test_a_request_that_fills_a_query_does_not_share_it() -> None:
    queue, requests = filled(1, CLAIMS_MAX, 1)
    assert [await queue.take() for _ in requests] == [[request] for request in requests]


async def test_a_lone_request_does_not_wait_for_others() -> None:
    queue = RequestQueue(CLAIMS_MAX, large_max=1)
    task = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    request = pending(1)
    queue.put(request)
    assert await task == [request]


async def test_a_large_request_is_alone_and_makes_no_small_one_wait() -> None:
    queue, [first, second, small] = filled(CLAIMS_MAX + 1, CLAIMS_MAX + 1, 1)
    assert await queue.take() == [first]
    assert await queue.take() == [small]
    third = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    assert not third.done()
    queue.release([small])
    await asyncio.sleep(0)
    assert not third.done()
    queue.release([first])
    assert await third == [second]


async def test_a_closed_queue_hands_out_its_requests_first() -> None:
    queue, [large, other_large, small] = filled(CLAIMS_MAX + 1, CLAIMS_MAX + 1, 1)
    queue.close()
    assert await queue.take() == [large]
    assert await queue.take() == [small]
    last = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    queue.release([large])
    assert await last == [other_large]
    assert await queue.take() == []


async def test_a_removed_request_is_not_handed_out() -> None:
    queue, [large, first, second, other_large] = filled(CLAIMS_MAX + 1, 1, 2, CLAIMS_MAX + 1, large_max=2)
    queue.remove(large)
    queue.remove(first)
    assert [await queue.take(), await queue.take()] == [[other_large], [second]]
    queue.remove(second)  # it was handed out already
    queue.close()
    assert await queue.take() == []


async def test_a_wait_ends_when_the_last_request_is_removed() -> None:
    queue, [first, last] = filled(CLAIMS_MAX + 1, CLAIMS_MAX + 1)
    assert await queue.take() == [first]
    queue.close()
    task = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    queue.remove(last)
    assert await task == []


async def test_all_waits_end_when_the_queue_is_closed() -> None:
    queue = RequestQueue(CLAIMS_MAX, large_max=1)
    takers = [asyncio.create_task(queue.take()) for _ in range(3)]
    await asyncio.sleep(0)
    queue.close()
    assert await asyncio.gather(*takers) == [[], [], []]
