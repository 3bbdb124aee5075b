"""The SQL of the service: `migrations/` make the schema, `queries/` use it.

This loader is the only reader of both. A query is found by its file's name: `sql.query("check_claims")`.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_HERE = Path(__file__).parent
_MIGRATION_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema, applied once, in the order of the versions.

    Migrations go forward only: what a step did wrong, a later step mends. An applied file is never edited,
    and `sha256` is how an edit is found out.
    """

    version: int
    name: str
    statements: str

    @property
    def sha256(self) -> str:
        """The digest of the file's text, hexadecimal."""
        return hashlib.sha256(self.statements.encode()).hexdigest()


@cache
def query(name: str) -> str:
    """The text of `queries/<name>.sql`. Raises FileNotFoundError."""
    return (_HERE / "queries" / f"{name}.sql").read_text(encoding="utf-8")


def query_names() -> list[str]:
    """The names of all queries."""
    return sorted(path.stem for path in (_HERE / "queries").glob("*.sql"))


def migrations(folder: Path = _HERE / "migrations") -> list[Migration]:
    """The migrations in a folder, in order. Raises ValueError where a name or the numbering is wrong."""
    found: list[Migration] = []
    for position, path in enumerate(sorted(folder.glob("*.sql")), start=1):
        name = _MIGRATION_NAME.fullmatch(path.name)
        if name is None or int(name[1]) != position:
            raise ValueError(f"{path.name}: expected {position:04}_<name>.sql")
        found.append(Migration(position, name[2], path.read_text(encoding="utf-8")))
    return found
