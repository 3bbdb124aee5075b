"""Messages whose properties cannot be decoded are stored or dead-lettered like all others."""

import json
import struct

import pytest
from pamqp import encode

from tests.raw_properties import (
    HEADERS_FLAG,
    MESSAGE_ID_FLAG,
    TIMESTAMP_FLAG,
    RawProperties,
    nested,
    publish_raw,
    table,
)
from tests.wire import Wire, run_created

MALFORMED = {
    "timestamp out of range": (TIMESTAMP_FLAG, struct.pack(">Q", 2**64 - 1)),
    "timestamp far away": (TIMESTAMP_FLAG, struct.pack(">Q", 10**17)),
    "message id not UTF-8": (MESSAGE_ID_FLAG, b"\x04\xff\xfeab"),
    "message id of 255 wrong bytes": (MESSAGE_ID_FLAG, b"\xff" + b"\xff" * 255),
    "header timestamp out of range": (HEADERS_FLAG, table(b"t", b"T", struct.pack(">Q", 2**63))),
    "header with a huge double": (HEADERS_FLAG, table(b"d", b"d", struct.pack(">d", 1e300))),
    "header name not UTF-8": (HEADERS_FLAG, table(b"\xff\xfe", b"t", b"\x01")),
    "3,000 nested headers": (HEADERS_FLAG, nested(3_000)),
    "900 nested headers": (HEADERS_FLAG, nested(900)),
    "100 KiB of headers": (HEADERS_FLAG, encode.field_table({"long": "x" * 100 * 1024})),
}


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(("flags", "encoded"), MALFORMED.values(), ids=MALFORMED.keys())
async def test_malformed_properties(wire: Wire, flags: int, encoded: bytes) -> None:
    good = run_created()
    bodies = [json.dumps(good).encode(), b"not JSON"]
    await publish_raw(wire, "export-runs.events", "run-created", bodies, RawProperties(flags, encoded))
    await wire.until_run(good["runId"])
    dead = await wire.take_from("export-runs.run-created.dead")
    assert dead.body == b"not JSON"
    assert dead.headers["x-error-code"] == "INVALID_EVENT"
    assert await wire.count_in("export-runs.run-created.dead") == 0


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(("flags", "encoded"), MALFORMED.values(), ids=MALFORMED.keys())
async def test_malformed_properties_of_a_request(wire: Wire, flags: int, encoded: bytes) -> None:
    """It has no usable `reply_to`, so it is dropped. All other requests are answered."""
    request = {"orgId": "org-1", "claimIds": ["c-1"]}
    bodies = [json.dumps(request).encode(), b"not JSON"]
    await publish_raw(wire, "export-runs.rpc", "check-claims", bodies, RawProperties(flags, encoded))
    assert (await wire.result("check-claims", **request))["unexported"] == ["c-1"]
    assert await wire.count_in("export-runs.rpc.check-claims") == 0
