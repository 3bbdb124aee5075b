"""The rules about single messages: how they are published, and what is in them."""

import json
from collections.abc import Callable, Iterator
from typing import Final

from cli.conformance.rules import KIT, Fault, Rule
from cli.conformance.timeline import REQUESTS, Publication, Timeline
from schema.decoding import InvalidBody, decode
from schema.events import EVENTS
from schema.names import DIRECT_REPLY_TO
from worker.requests.reply_addresses import UnusableReplyTo, read_reply_address

PERSISTENT: Final = 2
REPLY_QUEUE_PREFIXES: Final = ("reply.",)


def asks(operation: str) -> Rule:
    """The program sends a request of this operation: else nothing that follows could be judged."""

    def judge(timeline: Timeline) -> Iterator[Fault]:
        if not any(each.routing_key == operation for each in timeline.requests()):
            yield Fault(f"the program never sent {operation}")

    return Rule("ask", operation, judge)


def _of_events(is_wrong: Callable[[Publication], bool], sentence: str) -> Callable[[Timeline], Iterator[Fault]]:
    def judge(timeline: Timeline) -> Iterator[Fault]:
        for each in timeline.events():
            if is_wrong(each):
                yield Fault(f"the {each.routing_key} {sentence}", each.message_id)

    return judge


def _of_requests(is_wrong: Callable[[Publication], bool], sentence: str) -> Callable[[Timeline], Iterator[Fault]]:
    def judge(timeline: Timeline) -> Iterator[Fault]:
        for each in timeline.requests():
            if is_wrong(each):
                yield Fault(f"the request {each.routing_key} {sentence}", each.message_id)

    return judge


def _message_ids(timeline: Timeline) -> Iterator[Fault]:
    seen: set[str] = set()
    for each in timeline.events():
        if not each.message_id:
            yield Fault(f"the {each.routing_key} has no message_id")
        elif each.message_id in seen:
            yield Fault(f"the {each.routing_key} has a message_id that an earlier message had", each.message_id)
        else:
            seen.add(each.message_id)


def _event_ids(timeline: Timeline) -> Iterator[Fault]:
    """One event has one id, however often it is told; another event has another one."""
    bodies: dict[str, object] = {}
    ids: dict[tuple[str, str], str] = {}
    for each in timeline.events():
        event_id, run_id = each.event_id(), each.run_id()
        if event_id is None or run_id is None:
            continue  # it is not valid, and another rule says so
        body = json.loads(each.body)
        if bodies.setdefault(event_id, body) != body:
            yield Fault(f"the {each.routing_key} has the eventId of another event", each.message_id)
            continue
        if ids.setdefault((each.routing_key, run_id), event_id) != event_id:
            yield Fault(f"the {each.routing_key} of the same run came again with another eventId", each.message_id)


def _confirmed(timeline: Timeline) -> Iterator[Fault]:
    """Events whose confirm was lost on purpose, or that a kill on purpose interrupted, are no fault."""
    confirmed = {each.event_id() for each in timeline.events() if each.confirmed_at_s is not None}
    for each in timeline.events():
        is_interrupted = each.was_cut or each.at_s <= timeline.killed_at_s()
        if each.has_confirms and each.event_id() not in confirmed and not is_interrupted:
            yield Fault(
                f"the program ended, or closed its connection, before RabbitMQ had confirmed the {each.routing_key}",
                each.message_id,
            )


def _told_again(timeline: Timeline) -> Iterator[Fault]:
    events = list(timeline.events())
    for place, cut in enumerate(events):
        later = events[place + 1 :]
        if cut.was_cut and not any(each.routing_key == cut.routing_key and each.confirmed_at_s for each in later):
            yield Fault(
                f"the connection was lost before the {cut.routing_key} was confirmed, and it was not published again",
                cut.message_id,
            )


def _valid_events(timeline: Timeline) -> Iterator[Fault]:
    for each in timeline.events():
        if each.routing_key not in EVENTS:
            yield Fault(f"there is no event {each.routing_key!r}: the routing key is the event type", each.message_id)
            continue
        try:
            each.event()
        except InvalidBody as invalid:
            yield Fault(f"the {each.routing_key} is not valid: {invalid}", each.message_id)


def _valid_requests(timeline: Timeline) -> Iterator[Fault]:
    for each in timeline.requests():
        model = REQUESTS.get(each.routing_key)
        if model is None:
            yield Fault(f"there is no operation {each.routing_key!r}: it is the routing key", each.message_id)
            continue
        try:
            decode(model, each.body)
        except InvalidBody as invalid:
            yield Fault(f"the request {each.routing_key} is not valid: {invalid}", each.message_id)


def _cannot_be_answered(request: Publication) -> bool:
    reply_to = request.properties.reply_to
    if reply_to == DIRECT_REPLY_TO:
        return False  # RabbitMQ makes an address of it
    try:
        read_reply_address(reply_to, REPLY_QUEUE_PREFIXES)
    except UnusableReplyTo:
        return True
    return False


def _closings(timeline: Timeline) -> Iterator[Fault]:
    for text in timeline.closings:
        yield Fault(f"RabbitMQ closed a channel or the connection: {text}")


def _endings(timeline: Timeline) -> Iterator[Fault]:
    for ending in timeline.endings:
        if ending.code is None and not ending.was_killed:
            yield Fault("the program did not end by itself in time")


TELL_AGAIN: Final = Rule("tell-again", "events", _told_again)

EVENT_RULES: Final = (
    Rule("confirms", "events", _of_events(lambda it: not it.has_confirms, "is published without publisher confirms")),
    Rule(
        "persistent",
        "events",
        _of_events(lambda it: it.properties.delivery_mode != PERSISTENT, "is not persistent (delivery_mode 2)"),
    ),
    Rule("mandatory", "events", _of_events(lambda it: not it.mandatory, "is not mandatory")),
    Rule("message-id", "events", _message_ids),
    Rule(
        "type",
        "events",
        _of_events(lambda it: it.properties.message_type != it.routing_key, "does not have its type as property type"),
    ),
    Rule("event-id", "events", _event_ids),
    Rule("await-confirm", "events", _confirmed),
    Rule("valid-event", "rules-for-every-body", _valid_events),
)

REQUEST_RULES: Final = (
    Rule("expiration", "how-to-ask", _of_requests(lambda it: not it.properties.expiration, "has no expiration")),
    Rule("reply-to", "how-to-ask", _of_requests(_cannot_be_answered, "has no reply_to that a reply may go to")),
    Rule(
        "correlation-id",
        "how-to-ask",
        _of_requests(lambda it: not it.properties.correlation_id, "has no correlation_id"),
    ),
    Rule("valid-request", "rules-for-every-body", _valid_requests),
    Rule("amqp", "how-to-ask", _closings),
    Rule("end", "the-program", _endings, KIT),
)
