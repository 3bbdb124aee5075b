"""The breaks of the contract that were made on purpose. CHANGELOG.md tells those who use the service of each."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Change:
    """What no longer fits what a version knew of a message, and why that was worth it."""

    why: str
    breaks: tuple[str, ...]


_BY_CLAIM: Final = "a double export belongs to a claim, with all its runs: pairs of runs were quadratic"
_NO_PAIR: Final = ("firstRunId: is gone", "foundBy: is gone", "id: is gone", "secondRunId: is gone")

DELIBERATE: Final[dict[str, dict[str, Change]]] = {
    "0.1.0": {
        "list-double-exports.reply": Change(_BY_CLAIM, tuple(f".result.doubleExports[].{each}" for each in _NO_PAIR)),
        "resolve-double-export.request": Change(
            _BY_CLAIM,
            (
                ".claimId: may be absent",
                ".id: is gone",
                ".orgId: may be absent",
                ".orgId: may be null, not only string",
            ),
        ),
        "resolve-double-export.reply": Change(_BY_CLAIM, tuple(f".result.{each}" for each in _NO_PAIR)),
        "double-export-detected": Change(
            "one alert per run, with the claims that it made double exports: `schemaVersion` tells",
            (
                ".claimId: is gone",
                ".firstRunId: is gone",
                ".id: is gone",
                ".schemaVersion: may be 2",
                ".secondRunId: is gone",
            ),
        ),
        "error-reply": Change(
            "RabbitMQ would close the channel on a reply that is too large; a user who may not ask for an organisation "
            "can do nothing but ask somebody",
            (".error.code: may be RESULT_TOO_LARGE", ".error.code: may be ORGANISATION_NOT_ALLOWED"),
        ),
        "find-runs-by-claim-id.reply": Change(
            "an export that was taken back is none", (".result.runs[].claimOutcome: may be reversed",)
        ),
        "dead-letter-headers": Change(
            "an operator does something else about each of them",
            (
                ".x-error-code: may be ORGANISATION_NOT_ALLOWED",
                ".x-error-code: may be RUN_PURGED",
                ".x-error-code: may be STORE_TIMED_OUT",
            ),
        ),
    }
}
"""By the version and the schema's name. What is listed and not so is an error, too."""
