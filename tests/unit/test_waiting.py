"""Requests that wait share a query; large ones hold nobody up."""

import asyncio
from typing import cast

import pytest

from worker.amqp import Delivery
from worker.waiting import QUERY_SIZE_MAX, Asked, Waiting


def asked(size: int) -> Asked:
    return Asked(cast(Delivery, None), None, size, expires_at=0)


def waiting(*sizes: int, large_max: int = 1) -> tuple[Waiting, list[Asked]]:
    """A line with requests of these sizes in it."""
    line = Waiting(large_max)
    requests = [asked(size) for size in sizes]
    for request in requests:
        line.put(request)
    return line, requests


async def test_what_waits_is_taken_together_in_order() -> None:
    line, requests = waiting(1, 500, 2)
    assert await line.take() == requests


@pytest.mark.parametrize(("last", "together"), [(1, 2), (2, 1)])
async def test_a_query_holds_so_much_and_no_more(last: int, together: int) -> None:
    line, requests = waiting(QUERY_SIZE_MAX - 1, last)
    assert await line.take() == requests[:together]


async def test_one_that_fills_a_query_shares_it_with_nobody() -> None:
    line, requests = waiting(1, QUERY_SIZE_MAX, 1)
    assert [await line.take() for _ in requests] == [[request] for request in requests]


async def test_a_lone_request_goes_at_once() -> None:
    line = Waiting(large_max=1)
    taking = asyncio.create_task(line.take())
    await asyncio.sleep(0)
    request = asked(1)
    line.put(request)
    assert await taking == [request]


async def test_large_ones_go_alone_and_hold_up_nobody() -> None:
    line, [first, second, small] = waiting(QUERY_SIZE_MAX + 1, QUERY_SIZE_MAX + 1, 1)
    assert await line.take() == [first]
    assert await line.take() == [small]
    third = asyncio.create_task(line.take())
    await asyncio.sleep(0)
    assert not third.done()
    line.done([small])
    await asyncio.sleep(0)
    assert not third.done()
    line.done([first])
    assert await third == [second]


async def test_what_waits_when_it_closes_is_taken_first() -> None:
    line, [large, other_large, small] = waiting(QUERY_SIZE_MAX + 1, QUERY_SIZE_MAX + 1, 1)
    line.close()
    assert await line.take() == [large]
    assert await line.take() == [small]
    last = asyncio.create_task(line.take())
    await asyncio.sleep(0)
    line.done([large])
    assert await last == [other_large]
    assert await line.take() == []


async def test_what_is_dropped_is_not_taken() -> None:
    line, [large, first, second, other_large] = waiting(QUERY_SIZE_MAX + 1, 1, 2, QUERY_SIZE_MAX + 1, large_max=2)
    line.drop(large)
    line.drop(first)
    assert [await line.take(), await line.take()] == [[other_large], [second]]
    line.drop(second)  # taken already
    line.close()
    assert await line.take() == []


async def test_the_last_that_is_dropped_lets_a_taker_end() -> None:
    line, [taken, dropped] = waiting(QUERY_SIZE_MAX + 1, QUERY_SIZE_MAX + 1)
    assert await line.take() == [taken]
    line.close()
    taking = asyncio.create_task(line.take())
    await asyncio.sleep(0)
    line.drop(dropped)
    assert await taking == []


async def test_all_takers_hear_that_it_is_closed() -> None:
    line = Waiting(large_max=1)
    takers = [asyncio.create_task(line.take()) for _ in range(3)]
    await asyncio.sleep(0)
    line.close()
    assert await asyncio.gather(*takers) == [[], [], []]
