"""The body of a dead letter as `show` prints it: JSON is indented, nothing is changed, and a long body is cut."""

import pytest

from cli.dead_letters.display import BODY_SHOWN_CHARS_MAX, body_text

BODIES = {
    "object": (
        b'{"a":[1,{"b":null}],"c":{}}',
        '{\n  "a": [\n    1,\n    {\n      "b": null\n    }\n  ],\n  "c": {}\n}',
    ),
    "numbers as they are": (b"[1e999,1.10, -0]", "[\n  1e999,\n  1.10,\n  -0\n]"),
    "names that repeat": (b'{"a":1,"a":2}', '{\n  "a": 1,\n  "a": 2\n}'),
    "brackets in texts": (b'["],{\\"[","\\\\"]', '[\n  "],{\\"[",\n  "\\\\"\n]'),
    "empty array": (b"[ ]", "[]"),
    "scalar": (b' "x" ', '"x"'),
    "not JSON": (b"{a: 1}\n\tb", "{a: 1}\n\tb"),
    "empty": (b"", ""),
    "controls": (b"a\x1b[2J\x00\r\x7f", "a\x1b[2J\x00\r\x7f"),
    "controls in JSON": ('["\x9b\u202e"]'.encode(), '[\n  "\x9b\u202e"\n]'),
    "not UTF-8": (b"a\xff\xfe", "a\\xff\\xfe"),
    "other scripts": ("\u00e9\u4e16".encode(), "\u00e9\u4e16"),
    "deep": (b"[" * 5_000, "[" * 5_000),
}


@pytest.mark.parametrize(("body", "shown"), BODIES.values(), ids=BODIES.keys())
def test_a_body(body: bytes, shown: str) -> None:
    assert body_text(body) == (shown, False)


@pytest.mark.parametrize(
    "body",
    [b"x" * 10**6, b"[" + b"1," * 10**6 + b"1]", "\U0001f600".encode() * 10**5],
    ids=["text", "JSON", "four bytes per character"],
)
def test_a_long_body_is_cut(body: bytes) -> None:
    text, is_cut = body_text(body)
    assert (len(text), is_cut) == (BODY_SHOWN_CHARS_MAX, True)
