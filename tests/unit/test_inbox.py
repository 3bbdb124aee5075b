"""What is taken from an inbox together, and what is not."""

import asyncio

import pytest
from aiormq import spec
from aiormq.abc import DeliveredMessage
from pamqp.header import ContentHeader

from tests.wire import WAIT_S
from worker.inbox import SUSPECT_DELIVERIES, Inbox


class NoChannel:
    """Stands where a delivery's channel would: an inbox must never use it."""


def delivery(tag: int, size: int = 1, *, suspect: bool = False) -> DeliveredMessage:
    """A delivery as aiormq hands it over; what is no suspect may have come twice before, or say that it came often."""
    count = SUSPECT_DELIVERIES if suspect or tag % 2 else SUSPECT_DELIVERIES - 1
    redelivered = suspect or not tag % 2
    return DeliveredMessage(
        delivery=spec.Basic.Deliver(delivery_tag=tag, redelivered=redelivered),
        header=ContentHeader(properties=spec.Basic.Properties(headers={"x-delivery-count": count})),
        body=b"x" * size,
        channel=NoChannel(),  # type: ignore[arg-type]
    )


def filled(*deliveries: DeliveredMessage) -> Inbox:
    inbox = Inbox()
    for each in deliveries:
        inbox.put(each)
    return inbox


async def tags(inbox: Inbox, deliveries_max: int = 100, bytes_max: int = 1_000) -> list[int | None]:
    async with asyncio.timeout(WAIT_S):
        return [each.delivery_tag for each in await inbox.take(deliveries_max, bytes_max)]


async def test_what_waits_is_taken_together_in_order() -> None:
    assert await tags(filled(*(delivery(tag) for tag in range(1, 6)))) == [1, 2, 3, 4, 5]


async def test_a_batch_ends_at_its_number() -> None:
    inbox = filled(*(delivery(tag) for tag in range(1, 6)))
    assert await tags(inbox, deliveries_max=3) == [1, 2, 3]
    assert await tags(inbox, deliveries_max=2) == [4, 5]


@pytest.mark.parametrize(
    ("bytes_max", "expected"),
    [
        pytest.param(30, [1, 2, 3], id="at the edge"),
        pytest.param(29, [1, 2], id="one byte short"),
        pytest.param(10, [1], id="room for one"),
        pytest.param(9, [1], id="at least one, however large"),
    ],
)
async def test_a_batch_ends_at_its_bytes(bytes_max: int, expected: list[int]) -> None:
    inbox = filled(*(delivery(tag, size=10) for tag in (1, 2, 3)))
    assert await tags(inbox, bytes_max=bytes_max) == expected
    rest = [tag for tag in (1, 2, 3) if tag not in expected]
    for tag in rest:
        assert await tags(inbox, bytes_max=1) == [tag]


async def test_what_was_delivered_before_comes_alone() -> None:
    inbox = filled(
        delivery(1),
        delivery(2),
        delivery(3, suspect=True),
        delivery(4, suspect=True),
        delivery(5),
        delivery(6),
    )
    assert [await tags(inbox) for _ in range(4)] == [[1, 2], [3], [4], [5, 6]]


async def test_taking_waits_for_a_delivery() -> None:
    inbox = Inbox()
    taking = asyncio.create_task(tags(inbox))
    await asyncio.sleep(0)
    assert not taking.done()
    inbox.put(delivery(1))
    assert await taking == [1]
    again = asyncio.create_task(tags(inbox))
    await asyncio.sleep(0)
    assert not again.done()
    inbox.put(delivery(2))
    assert await again == [2]


async def test_a_closed_inbox_gives_what_it_has_then_nothing() -> None:
    inbox = filled(delivery(1), delivery(2, suspect=True))
    inbox.close()
    assert [await tags(inbox) for _ in range(4)] == [[1], [2], [], []]


async def test_closing_ends_the_wait() -> None:
    inbox = Inbox()
    taking = asyncio.create_task(tags(inbox))
    await asyncio.sleep(0)
    inbox.close()
    assert await taking == []
