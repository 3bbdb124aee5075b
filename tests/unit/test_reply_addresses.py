"""The form of an address decides whether a reply may go there. Requests with other addresses are logged."""

import base64
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from structlog.typing import EventDict

from tests.reply_addresses import NODE_HASHES, address, genuine_addresses, mutations
from worker.requests.reply_addresses import (
    LOG_INTERVAL_S,
    LOGGED_ADDRESSES_MAX,
    UnusableAddressLog,
    UnusableReplyTo,
    direct_reply_to,
    read_reply_address,
)

PREFIXES = ("reply.", "answers.")

GENUINE = {
    "3.10.8": "amq.rabbitmq.reply-to.g1h2AA5yZXBseUA3MzE3MDMyNAAAArAAAAAAawcXgw==./4JmumYuTByNTeXFmg88mw==",
    "4.0.5": "amq.rabbitmq.reply-to.g1h2AA5yZXBseUA3MzE3MDMyNAAAAmUAAAAAawcYtA==.rXwNdYhVca9GoMakp1sQIw==",
}


def node_hash(reply_to: str | None) -> int | str | None:
    """The hash of the node in a direct address, None for a queue, or "refused"."""
    try:
        return read_reply_address(reply_to, PREFIXES).node_hash
    except UnusableReplyTo:
        return "refused"


@pytest.mark.parametrize("version", GENUINE)
def test_an_address_that_a_broker_has_made_is_accepted(version: str) -> None:
    assert node_hash(GENUINE[version]) == 73170324


@given(genuine_addresses())
def test_every_address_that_rabbitmq_can_make_is_accepted(genuine: tuple[int, str]) -> None:
    node, reply_to = genuine
    assert node_hash(reply_to) == node


@given(genuine_addresses(), st.randoms(use_true_random=False))
def test_every_address_that_is_accepted_is_one_that_rabbitmq_can_make(
    genuine: tuple[int, str], changes: random.Random
) -> None:
    """A changed address is refused, unless RabbitMQ can make that one too."""
    changed = mutations(genuine[1], changes)
    read = node_hash(changed)
    if isinstance(read, int):
        token, key = changed.removeprefix("amq.rabbitmq.reply-to.").split(".")
        numbers = base64.b64decode(token)[-12:]
        assert changed == address(node=b"reply@%d" % read, numbers=numbers, key=base64.b64decode(key))
        assert read < NODE_HASHES
        assert len(base64.b64decode(key)) == 16


@pytest.mark.parametrize(
    "node",
    [
        b"",
        b"reply@",
        b"reply",
        b"rabbit@localhost",
        b"rabbit@123",
        b"reply@localhost",
        b"reply@+123",
        b"reply@-123",
        b"reply@0123",
        b"reply@00",
        b"reply@1@2",
        b"reply@1 ",
        b"reply@1\n",
        b"Reply@1",
        "reply@\N{ARABIC-INDIC DIGIT ONE}".encode(),
        b"reply@%d" % NODE_HASHES,
        b"reply@999999999",
        b"reply@" + b"1" * 100,
    ],
)
def test_a_node_name_that_rabbitmq_does_not_make_is_refused(node: bytes) -> None:
    assert node_hash(address(node=node)) == "refused"


@pytest.mark.parametrize("node", [b"reply@0", b"reply@7", b"reply@%d" % (NODE_HASHES - 1)])
def test_the_first_and_the_last_node_name_are_accepted(node: bytes) -> None:
    assert node_hash(address(node=node)) == int(node.removeprefix(b"reply@"))


@pytest.mark.parametrize(
    "form",
    [
        pytest.param({"head": b"\x83gv"}, id="the process id of Erlang 22"),
        pytest.param({"head": b"\x83Xw", "length_bytes": 1}, id="a short atom"),
        pytest.param({"head": b"\x83Xd"}, id="an atom in Latin 1"),
        pytest.param({"head": b"\x83h"}, id="a tuple"),
        pytest.param({"numbers": bytes(9)}, id="numbers of 9 bytes"),
        pytest.param({"numbers": bytes(13)}, id="a byte more"),
        pytest.param({"numbers": b""}, id="no numbers"),
        pytest.param({"key": bytes(15)}, id="a short key"),
        pytest.param({"key": bytes(17)}, id="a long key"),
        pytest.param({"key": b""}, id="no key"),
    ],
)
def test_a_process_id_or_key_that_rabbitmq_does_not_make_is_refused(form: dict[str, Any]) -> None:
    assert node_hash(address(**form)) == "refused"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: text + ".", id="another dot"),
        pytest.param(lambda text: text.replace("==.", "==.."), id="two dots"),
        pytest.param(lambda text: text[:-1], id="less padding"),
        pytest.param(lambda text: text + "=", id="more padding"),
        pytest.param(lambda text: text[:-3] + "B==", id="bits that no encoder leaves"),
        pytest.param(lambda text: text + "\n", id="a line end"),
        pytest.param(lambda text: text.replace("/", "_"), id="the alphabet of URLs"),
        pytest.param(lambda text: text.replace("amq.", "AMQ."), id="another prefix"),
        pytest.param(lambda text: "amq.rabbitmq.reply-to", id="what a client writes"),
        pytest.param(lambda text: "amq.rabbitmq.reply-to.", id="the prefix alone"),
    ],
)
def test_a_text_that_rabbitmq_does_not_make_is_refused(change: Callable[[str], str]) -> None:
    assert node_hash(change(GENUINE["3.10.8"])) == "refused"


@pytest.mark.parametrize(
    "name",
    [
        "amq.gen-Jms-4vjeJKGjGrFFt9kl3g",
        "amq_170474bc465541fbb9aa73e6b6bca5e0",
        "reply.x",
        "answers.7856f76a-91d4-4f6a-92f3-fa57621277fa",
    ],
    ids=["named by RabbitMQ", "named by aio-pika", "allowed", "allowed too"],
)
def test_a_reply_may_go_to_a_queue_with_such_a_name(name: str) -> None:
    assert node_hash(name) is None


@pytest.mark.parametrize(
    "name",
    [
        None,
        "",
        " ",
        "7856f76a-91d4-4f6a-92f3-fa57621277fa",
        "amq_170474bc465541fbb9aa73e6b6bca5e",
        "amq_170474bc465541fbb9aa73e6b6bca5e00",
        "amq_170474BC465541FBB9AA73E6B6BCA5E0",
        "amq_payments.in",
        "amq_170474bc465541fbb9aa73e6b6bca5e0\n",
        "amq.gen",
        "reply",
        "export-runs.run-created",
    ],
)
def test_a_reply_may_not_go_to_a_queue_with_such_a_name(name: str | None) -> None:
    assert node_hash(name) == "refused"


def test_the_address_for_a_trial_is_accepted() -> None:
    assert node_hash(direct_reply_to(73170324)) == 73170324


@pytest.fixture
def lines() -> Iterator[list[EventDict]]:
    """The lines that are logged."""
    with structlog.testing.capture_logs() as lines:
        yield lines


def test_an_address_is_logged_once_per_minute(lines: list[EventDict]) -> None:
    """The line says how many were not logged since the line before."""
    address_log = UnusableAddressLog()
    for _ in range(5):
        address_log.warn(1_000, "payments.in", "its name", operation="check-claims")
    address_log.warn(1_000, None, "there is none")
    assert [(line["reply_to"], line["reason"], line["not_logged"]) for line in lines] == [
        ("payments.in", "its name", 0),
        (None, "there is none", 4),
    ]
    address_log.warn(1_000 + LOG_INTERVAL_S - 0.001, "payments.in", "its name")
    assert len(lines) == 2
    address_log.warn(1_000 + LOG_INTERVAL_S, "payments.in", "its name")
    assert (lines[2]["reply_to"], lines[2]["not_logged"]) == ("payments.in", 1)


def test_invented_addresses_fill_neither_the_log_nor_memory(lines: list[EventDict]) -> None:
    address_log = UnusableAddressLog()
    for number in range(10 * LOGGED_ADDRESSES_MAX):
        address_log.warn(1_000, f"queue-{number}", "its name")
    assert len(lines) == len(address_log._logged_at) == LOGGED_ADDRESSES_MAX
    address_log.warn(1_000 + LOG_INTERVAL_S, "another", "its name")
    assert lines[-1]["not_logged"] == 9 * LOGGED_ADDRESSES_MAX
    assert len(address_log._logged_at) == 1
