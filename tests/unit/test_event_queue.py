"""Which events the queue hands out in one batch."""

import asyncio
import json

import pytest
from aiormq import spec
from aiormq.abc import DeliveredMessage
from pamqp.header import ContentHeader

from tests.wire import WAIT_S, run_created, run_finished
from worker.events.queue import EventQueue, queue_number

SUSPECT_DELIVERIES = 10


class NoChannel:
    """Takes the place of a delivery's channel. The queue must never use it."""


def delivery(tag: int, size: int = 1, *, suspect: bool = False) -> DeliveredMessage:
    """A delivery as aiormq makes it.

    A delivery that is no suspect has a low count, or a high one that only its publisher can have written.
    """
    count = SUSPECT_DELIVERIES if suspect or tag % 2 else SUSPECT_DELIVERIES - 1
    redelivered = suspect or not tag % 2
    return DeliveredMessage(
        delivery=spec.Basic.Deliver(delivery_tag=tag, redelivered=redelivered),
        header=ContentHeader(properties=spec.Basic.Properties(headers={"x-delivery-count": count})),
        body=b"x" * size,
        channel=NoChannel(),  # type: ignore[arg-type]
    )


def filled(*deliveries: DeliveredMessage) -> EventQueue:
    queue = EventQueue(SUSPECT_DELIVERIES)
    for each in deliveries:
        queue.put(each)
    return queue


async def tags(queue: EventQueue, events_max: int = 100, bytes_max: int = 1_000) -> list[int | None]:
    async with asyncio.timeout(WAIT_S):
        return [each.delivery_tag for each in await queue.take(events_max, bytes_max)]


async def test_all_waiting_events_are_one_batch_in_their_order() -> None:
    assert await tags(filled(*(delivery(tag) for tag in range(1, 6)))) == [1, 2, 3, 4, 5]


async def test_a_batch_has_at_most_events_max() -> None:
    queue = filled(*(delivery(tag) for tag in range(1, 6)))
    assert await tags(queue, events_max=3) == [1, 2, 3]
    assert await tags(queue, events_max=2) == [4, 5]


@pytest.mark.parametrize(
    ("bytes_max", "expected"),
    [
        pytest.param(30, [1, 2, 3], id="at the edge"),
        pytest.param(29, [1, 2], id="one byte short"),
        pytest.param(10, [1], id="room for one"),
        pytest.param(9, [1], id="at least one, however large"),
    ],
)
async def test_a_batch_has_at_most_bytes_max(bytes_max: int, expected: list[int]) -> None:
    queue = filled(*(delivery(tag, size=10) for tag in (1, 2, 3)))
    assert await tags(queue, bytes_max=bytes_max) == expected
    rest = [tag for tag in (1, 2, 3) if tag not in expected]
    for tag in rest:
        assert await tags(queue, bytes_max=1) == [tag]


async def test_a_suspect_is_a_batch_of_its_own() -> None:
    queue = filled(
        delivery(1),
        delivery(2),
        delivery(3, suspect=True),
        delivery(4, suspect=True),
        delivery(5),
        delivery(6),
    )
    assert [await tags(queue) for _ in range(4)] == [[1, 2], [3], [4], [5, 6]]


async def test_taking_waits_for_a_delivery() -> None:
    queue = EventQueue(SUSPECT_DELIVERIES)
    task = asyncio.create_task(tags(queue))
    await asyncio.sleep(0)
    assert not task.done()
    queue.put(delivery(1))
    assert await task == [1]
    second_task = asyncio.create_task(tags(queue))
    await asyncio.sleep(0)
    assert not second_task.done()
    queue.put(delivery(2))
    assert await second_task == [2]


async def test_a_closed_queue_hands_out_its_events_and_then_empty_batches() -> None:
    queue = filled(delivery(1), delivery(2, suspect=True))
    queue.close()
    assert [await tags(queue) for _ in range(4)] == [[1], [2], [], []]


async def test_a_wait_ends_when_the_queue_is_closed() -> None:
    queue = EventQueue(SUSPECT_DELIVERIES)
    task = asyncio.create_task(tags(queue))
    await asyncio.sleep(0)
    queue.close()
    assert await task == []


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), ("\n,", "\t:\n")], ids=["compact", "spaces", "lines"])
def test_events_of_one_organisation_belong_into_one_queue(separators: tuple[str, str]) -> None:
    """Those of several are spread over all queues."""
    numbers = {
        queue_number(json.dumps(event, separators=separators).encode(), 2)
        for event in (run_created(orgId="org-7"), run_finished(orgId="org-7"), run_finished(orgId="org-7", claimIds=[]))
    }
    assert len(numbers) == 1
    of_many = [queue_number(json.dumps(run_created(orgId=f"org-{number}")).encode(), 2) for number in range(100)]
    assert 30 < sum(of_many) < 70


@pytest.mark.parametrize(
    "body",
    [b"", b"not JSON", b'{"orgId": 7}', b'{"orgId": "org-7', b" " * 5_000 + b'{"orgId":"org-7"}'],
    ids=["empty", "no JSON", "a number", "cut off", "far behind"],
)
def test_an_event_without_a_readable_organisation_belongs_into_the_first_queue(body: bytes) -> None:
    assert queue_number(body, 2) == 0
