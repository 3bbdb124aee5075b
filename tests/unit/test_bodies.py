"""How much room there is for large bodies, and for which there is none."""

from types import SimpleNamespace
from typing import cast

import pytest
from aiormq.abc import DeliveredMessage

from schema.limits import BODY_BYTES_MAX
from worker.broker.bodies import SMALL_BODY_BYTES_MAX, BodyRoom, has_body

MIB = 1024 * 1024


def delivery(size_bytes: int, body: bytes = b"") -> DeliveredMessage:
    return cast(DeliveredMessage, SimpleNamespace(header=SimpleNamespace(body_size=size_bytes), body=body))


def sizes(deliveries: list[DeliveredMessage]) -> list[int | None]:
    return [each.header.body_size for each in deliveries]


def test_there_is_room_to_the_last_byte() -> None:
    room = BodyRoom(2 * BODY_BYTES_MAX, BODY_BYTES_MAX, takes_oversized=False)
    assert room.take(BODY_BYTES_MAX)
    assert not room.take(BODY_BYTES_MAX + 1)
    assert room.take(BODY_BYTES_MAX)
    assert not room.take(SMALL_BODY_BYTES_MAX + 1)
    room.release(BODY_BYTES_MAX)
    assert room.take(BODY_BYTES_MAX - 1)
    assert room.take(1)
    assert not room.take(1)


def test_one_oversized_body_at_a_time_beside_the_others() -> None:
    room = BodyRoom(BODY_BYTES_MAX, BODY_BYTES_MAX, takes_oversized=True)
    assert room.take(BODY_BYTES_MAX)
    assert room.take(BODY_BYTES_MAX + 1)
    assert not room.take(BODY_BYTES_MAX + 1)
    assert not room.take(128 * MIB)
    room.release(BODY_BYTES_MAX + 1)
    assert room.take(128 * MIB)


def test_what_fits_together() -> None:
    """A large one that does not fit stands in the way of no other."""
    room = BodyRoom(4 * MIB, 4 * MIB, takes_oversized=True)
    assert room.take(MIB)
    waiting = [delivery(size * MIB) for size in (4, 5, 2, 6, 2, 1)]
    assert sizes(room.that_fit(waiting)) == [5 * MIB, 2 * MIB, MIB]
    assert sizes(room.that_fit(waiting)) == [5 * MIB, 2 * MIB, MIB], "nothing is taken by asking"
    room.release(MIB)
    assert sizes(room.that_fit(waiting)) == [4 * MIB, 5 * MIB]


@pytest.mark.parametrize(("bytes_max", "body_bytes_max"), [(4 * MIB - 1, 4 * MIB), (4 * MIB, SMALL_BODY_BYTES_MAX)])
def test_a_room_in_which_a_body_never_fits(bytes_max: int, body_bytes_max: int) -> None:
    with pytest.raises(AssertionError):
        BodyRoom(bytes_max, body_bytes_max, takes_oversized=False)


def test_whether_a_delivery_came_with_its_body() -> None:
    assert has_body(delivery(0))
    assert has_body(delivery(2, b"{}"))
    assert not has_body(delivery(2))
