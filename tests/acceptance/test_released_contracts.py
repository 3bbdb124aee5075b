"""A worker of today serves those who know the contract of a released version."""

import jsonschema_rs
import pytest

from tests.contract.deliberate import DELIBERATE
from tests.contract.versions import Message, Version, versions
from tests.wire import Wire

VERSIONS = versions()


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
async def test_what_was_sent_to_the_version_is_answered_as_it_was(version: Version, wire: Wire) -> None:
    changed = DELIBERATE.get(version.name, {})
    answered = 0
    for message in version.messages:
        match message.kind:
            case "event":
                await wire.publish(message.name, message.body)
                await wire.until_run(message.body["runId"])
            case "request" if message.schema not in changed:
                reply = Message("reply", message.name, await wire.ask(message.name, message.body))
                if reply.schema not in changed:
                    validator = jsonschema_rs.validator_for(version.schemas[reply.schema], validate_formats=True)
                    validator.validate(reply.body)
                    answered += 1
    assert answered >= len({message.name for message in version.messages if message.kind == "request"}) - len(changed)
