"""A rule of the contract, and what was found to break it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from cli.conformance.timeline import Timeline

CONTRACT: Final = "docs/CONTRACT.md"
KIT: Final = "docs/CONFORMANCE.md"
"""The pages that have rules."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that a program did wrong, in a sentence, and the `message_id` of the message that shows it."""

    sentence: str
    message_id: str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule. `section` is the anchor of the section of `page` that has it. `judge` finds what breaks it."""

    name: str
    section: str
    judge: Callable[[Timeline], Iterator[Fault]]
    page: str = CONTRACT


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault, and the rule that it breaks."""

    rule: Rule
    fault: Fault
    times: int
    """How often the rule was broken; `fault` is the first time."""
