"""The SQL of the service: `migrations/` make the tables, `queries/` use them, `roles.sql` says who may.

This loader is the only reader of all three. A query is found by the name of its file: `sql.query("get_run")` is
`queries/get_run.sql`.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .statements import split_statements

NO_TRANSACTION: Final = "-- no transaction"
"""The first line of a migration whose statements cannot or should not share one transaction."""

_HERE = Path(__file__).parent
# All at once, at import: a worker whose files are replaced while it runs keeps to the SQL that its Python knows.
_QUERIES: Final = {path.stem: path.read_text(encoding="utf-8") for path in (_HERE / "queries").glob("*.sql")}
_MIGRATION_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One step that changes the tables, applied once, in the order of the versions.

    Migrations go forward only: what a step did wrong, a later step mends. A file that was applied is never edited;
    `sha256` reveals an edit.
    """

    version: int
    name: str
    text: str

    @property
    def sha256(self) -> str:
        """The digest of the file's text, in hexadecimal digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def in_transaction(self) -> bool:
        """Whether all statements are applied in one transaction, which is the rule.

        The others are committed one by one, so each of them must do nothing when it is repeated.
        """
        return not self.text.startswith(NO_TRANSACTION)

    @property
    def statements(self) -> list[str]:
        """The statements of the file, in their order."""
        return split_statements(self.text)

    def __str__(self) -> str:
        return f"migration {self.version:04} ({self.name})"


def query(name: str) -> str:
    """The text of `queries/<name>.sql` when this process began. Raises KeyError."""
    return _QUERIES[name]


def roles() -> str:
    """The SQL that makes the roles of the service, for a superuser to run."""
    return (_HERE / "roles.sql").read_text(encoding="utf-8")


def query_names() -> list[str]:
    """The names of all queries."""
    return sorted(_QUERIES)


def migrations(folder: Path = _HERE / "migrations") -> list[Migration]:
    """The migrations in a folder, in order. Raises ValueError for a wrong name or a gap in the numbers."""
    steps: list[Migration] = []
    for position, path in enumerate(sorted(folder.glob("*.sql")), start=1):
        name = _MIGRATION_NAME.fullmatch(path.name)
        if name is None or int(name[1]) != position:
            raise ValueError(f"{path.name}: expected {position:04}_<name>.sql")
        steps.append(Migration(position, name[2], path.read_text(encoding="utf-8")))
    return steps
