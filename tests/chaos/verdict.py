"""The result of checking a campaign."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

Json = dict[str, Any]


SHOWN_PER_KIND_MAX: Final = 10
"""Of each kind of violation this many are shown."""


@dataclass
class Verdict:
    """The violations by kind, and counts and durations of the campaign (`figures`)."""

    violations: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    failures: list[str] = field(default_factory=list)
    figures: Json = field(default_factory=dict)

    def add(self, kind: str, text: str) -> None:
        """Add a violation."""
        self.violations[kind].append(text)

    def close(self) -> None:
        """Write the violations into `failures`, one line per violation."""
        for kind, texts in self.violations.items():
            self.failures += [f"{kind}: {text}" for text in texts[:SHOWN_PER_KIND_MAX]]
            if len(texts) > SHOWN_PER_KIND_MAX:
                self.failures.append(f"{kind}: and {len(texts) - SHOWN_PER_KIND_MAX} more")
