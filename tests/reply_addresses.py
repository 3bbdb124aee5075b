"""Direct reply-to addresses: those that RabbitMQ makes, and those that somebody might forge."""

import base64
import random
import string

from hypothesis import strategies as st

NODE_HASHES = 2**27

EVERY_NODE_HASH = st.integers(0, NODE_HASHES - 1)

PREFIX = "amq.rabbitmq.reply-to."


def address(
    *,
    node: bytes = b"reply@73170324",
    head: bytes = b"\x83Xv",
    length_bytes: int = 2,
    numbers: bytes = bytes(12),
    key: bytes = bytes(16),
) -> str:
    """A direct address as RabbitMQ makes it, but with these parts."""
    token = head + len(node).to_bytes(length_bytes, "big") + node + numbers
    return f"{PREFIX}{base64.b64encode(token).decode()}.{base64.b64encode(key).decode()}"


@st.composite
def genuine_addresses(
    draw: st.DrawFn, node_hashes: st.SearchStrategy[int] = EVERY_NODE_HASH, own_numbers: bytes = bytes(12)
) -> tuple[int, str]:
    """A node's hash, and an address that this node could have made. Some have one or more of `own_numbers`."""
    node_hash = draw(node_hashes)
    numbers = b"".join(
        draw(st.one_of(st.just(own_numbers[at : at + 4]), st.binary(min_size=4, max_size=4))) for at in (0, 4, 8)
    )
    key = draw(st.binary(min_size=16, max_size=16))
    return node_hash, address(node=b"reply@%d" % node_hash, numbers=numbers, key=key)


def mutations(reply_to: str, changes: random.Random) -> str:
    """An address with a few changes: in its text, or in the bytes of its token or key."""
    for _ in range(changes.randint(1, 3)):
        parts = reply_to.removeprefix(PREFIX).split(".")
        part = changes.randrange(len(parts))
        if changes.random() < 0.5:
            parts[part] = _changed_text(parts[part], changes)
        else:
            parts[part] = _changed_bytes(parts[part], changes)
        reply_to = PREFIX + ".".join(parts)
    return reply_to


def _changed_text(text: str, changes: random.Random) -> str:
    at = changes.randint(0, len(text))
    letter = changes.choice([*string.ascii_letters, *string.digits, *"+/=.-_@ \n\0é"])
    changed: str = changes.choice([text[:at] + letter + text[at:], text[:at] + letter + text[at + 1 :], text[:at]])
    return changed


def _changed_bytes(text: str, changes: random.Random) -> str:
    try:
        decoded = base64.b64decode(text)
    except ValueError:
        return text
    at = changes.randint(0, len(decoded))
    byte = bytes([changes.randrange(256)])
    changed = changes.choice(
        [decoded[:at] + byte + decoded[at:], decoded[:at] + byte + decoded[at + 1 :], decoded[:at]]
    )
    return base64.b64encode(changed).decode()
