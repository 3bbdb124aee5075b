"""A new migration makes nobody wait, can be repeated, and keeps what the version before it needs.

squawk (https://squawkhq.com/docs/rules) knows the rules. Where one of them has to be broken, for instance to drop a
column that no version uses any more, a comment before the statement says so: `-- squawk-ignore ban-drop-column`.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import sql
from sql import NO_TRANSACTION, Migration

OLDEST_POSTGRESQL = "15"
LINTED_FROM = 4
"""The migrations before this one were applied to empty tables, and an applied one is never edited."""

IGNORED_RULES = (
    "require-lock-timeout",  # `migrate` sets both time-outs
    "require-statement-timeout",
    "prefer-bigint-over-int",  # counts of claims are bounded
    "ban-drop-constraint",  # a check is widened by dropping it and adding the wider one
)


def broken_rules(migration: Migration) -> set[str]:
    """The rules that a migration breaks."""
    arguments = ["--assume-in-transaction"] if migration.in_transaction else ["--no-assume-in-transaction"]
    result = subprocess.run(
        [
            Path(sys.executable).with_name("squawk"),
            *arguments,
            f"--pg-version={OLDEST_POSTGRESQL}",
            f"--exclude={','.join(IGNORED_RULES)}",
            "--reporter=Json",
            "--stdin-filepath=migration.sql",
        ],
        input=migration.text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode in (0, 1), result.stderr
    return {violation["rule_name"] for violation in json.loads(result.stdout)}


def test_every_new_migration_keeps_the_rules() -> None:
    broken = {str(migration): broken_rules(migration) for migration in sql.migrations()[LINTED_FROM - 1 :]}
    assert {migration: rules for migration, rules in broken.items() if rules} == {}


@pytest.mark.parametrize(
    ("statements", "rule"),
    [
        pytest.param(
            "ALTER TABLE export_runs ADD CONSTRAINT c CHECK (org_id <> 'x');",
            "constraint-missing-not-valid",
            id="a check that reads the table under a lock",
        ),
        pytest.param(
            "ALTER TABLE export_runs ADD CONSTRAINT c CHECK (org_id <> 'x') NOT VALID;\n"
            "ALTER TABLE export_runs VALIDATE CONSTRAINT c;",
            "constraint-missing-not-valid",
            id="validated under the lock that added it",
        ),
        pytest.param(
            "CREATE INDEX i ON export_runs (status);", "require-concurrent-index-creation", id="an index under a lock"
        ),
        pytest.param(
            "ALTER TABLE export_runs DROP COLUMN status;", "ban-drop-column", id="a column that an older version uses"
        ),
        pytest.param(
            "ALTER TABLE export_runs RENAME COLUMN status TO state;",
            "renaming-column",
            id="a column name that an older version uses",
        ),
        pytest.param(
            "ALTER TABLE export_runs ADD COLUMN c text NOT NULL;",
            "adding-required-field",
            id="a column that an older version does not write",
        ),
        pytest.param(
            "ALTER TABLE export_runs ALTER COLUMN claim_count TYPE bigint;",
            "changing-column-type",
            id="a table that is rewritten",
        ),
        pytest.param(
            f"{NO_TRANSACTION}\nCREATE INDEX CONCURRENTLY i ON export_runs (status);",
            "prefer-robust-stmts",
            id="an index that cannot be repeated",
        ),
        pytest.param(
            f"{NO_TRANSACTION}\nALTER TABLE export_runs ADD COLUMN c text;",
            "prefer-robust-stmts",
            id="a column that cannot be repeated",
        ),
    ],
)
def test_a_rule_can_be_broken(statements: str, rule: str) -> None:
    assert rule in broken_rules(Migration(LINTED_FROM, "a_test", statements))


@pytest.mark.parametrize(
    "statements",
    [
        pytest.param(
            "ALTER TABLE export_runs ADD COLUMN c text;\n"
            "ALTER TABLE export_runs ADD CONSTRAINT c_short CHECK (char_length(c) < 9) NOT VALID;",
            id="a column with a check",
        ),
        pytest.param(
            f"{NO_TRANSACTION}\n"
            "ALTER TABLE export_runs DROP CONSTRAINT IF EXISTS c_short;\n"
            "ALTER TABLE export_runs ADD CONSTRAINT c_short CHECK (char_length(c) < 99) NOT VALID;\n"
            "ALTER TABLE export_runs VALIDATE CONSTRAINT c_short;",
            id="a check made wider",
        ),
        pytest.param(
            f"{NO_TRANSACTION}\nCREATE INDEX CONCURRENTLY IF NOT EXISTS i ON export_runs (status);", id="an index"
        ),
        pytest.param(
            f"{NO_TRANSACTION}\nALTER TYPE run_status ADD VALUE IF NOT EXISTS 'x' AFTER 'failed';", id="a value"
        ),
        pytest.param("CREATE TABLE t (a text PRIMARY KEY);\nCREATE INDEX i ON t (a);", id="a table"),
    ],
)
def test_a_migration_that_keeps_the_rules(statements: str) -> None:
    assert broken_rules(Migration(LINTED_FROM, "a_test", statements)) == set()
