"""One ack for many deliveries never covers one that is still in hand."""

from aiormq import spec
from hypothesis import given
from hypothesis import strategies as st

from worker.broker.deliveries import UnsettledTags


def tags_of(ack: spec.Basic.Ack, unsettled: set[int]) -> set[int]:
    """What RabbitMQ settles for an ack."""
    if not ack.multiple:
        return {ack.delivery_tag}
    return {tag for tag in unsettled if tag <= ack.delivery_tag}


def received(*tags: int) -> UnsettledTags:
    """Tags of which these were received."""
    unsettled = UnsettledTags()
    for tag in tags:
        unsettled.receive(tag)
    return unsettled


def told(acks: list[spec.Basic.Ack]) -> list[tuple[int, bool]]:
    return [(ack.delivery_tag, ack.multiple) for ack in acks]


@given(st.data())
def test_acks_settle_what_they_are_for(data: st.DataObject) -> None:
    """In any order, beside deliveries that are given back, or never settled."""
    count = data.draw(st.integers(1, 30))
    in_hand: set[int] = set(range(1, count + 1))
    unsettled = received(*sorted(in_hand))
    for is_acknowledged in data.draw(st.lists(st.booleans())):
        if not in_hand:
            break
        batch = data.draw(st.lists(st.sampled_from(sorted(in_hand)), min_size=1, unique=True))
        if is_acknowledged:
            acks = unsettled.acks(batch)
            covered = [tags_of(ack, in_hand) for ack in acks]
            assert sum(map(len, covered)) == len(set().union(*covered)), "RabbitMQ takes a second ack for an error"
            assert set().union(*covered) == set(batch)
        unsettled.settle(batch)
        in_hand -= set(batch)


def test_one_ack_for_all() -> None:
    unsettled = received(1, 2, 3, 4)
    assert told(unsettled.acks([3, 1, 2])) == [(3, True)]


def test_what_is_behind_a_delivery_in_hand() -> None:
    """It has an ack of its own; so has what comes after, until that delivery is settled."""
    unsettled = received(*range(1, 8))
    assert told(unsettled.acks([1, 2, 4, 6])) == [(2, True), (4, False), (6, False)]
    unsettled.settle([1, 2, 4, 6])
    assert told(unsettled.acks([3, 5, 7])) == [(7, True)]


def test_an_ack_that_is_being_written() -> None:
    """Until it is written, no other ack covers what it is for: RabbitMQ would get two."""
    unsettled = received(1, 2, 3)
    assert told(unsettled.acks([1])) == [(1, True)]
    assert told(unsettled.acks([2, 3])) == [(2, False), (3, False)]


def test_a_delivery_that_nobody_saw() -> None:
    """It counts as in hand: nobody may settle it."""
    unsettled = received(1, 2, 5)
    assert told(unsettled.acks([1, 2, 5])) == [(2, True), (5, False)]
