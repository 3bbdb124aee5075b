"""The text of a migration is split at the end of each statement, and nowhere else."""

import pytest

import sql
from sql.statements import split_statements


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        pytest.param("", [], id="nothing"),
        pytest.param("-- no SQL; at all\n", [], id="a comment alone"),
        pytest.param("SELECT 1", ["SELECT 1"], id="no semicolon"),
        pytest.param("SELECT 1;\n\nSELECT 2;\n", ["SELECT 1", "SELECT 2"], id="two"),
        pytest.param("SELECT 1; ; SELECT 2", ["SELECT 1", "SELECT 2"], id="an empty one"),
        pytest.param("-- a; b\nSELECT 1 -- c; d\n+ 1;", ["SELECT 1  \n+ 1"], id="comments"),
        pytest.param("/* a; b */ SELECT /* c; */ 1;", ["SELECT   1"], id="comments in a line"),
        pytest.param("SELECT ';', 'it''s;' ; SELECT 2", ["SELECT ';', 'it''s;'", "SELECT 2"], id="strings"),
        pytest.param(r"SELECT E'a\';b'; SELECT 2", [r"SELECT E'a\';b'", "SELECT 2"], id="an escaped quote"),
        pytest.param(r"SELECT 'a\'; SELECT 2", [r"SELECT 'a\'", "SELECT 2"], id="a backslash that escapes nothing"),
        pytest.param('SELECT 1 AS "a;""b"; SELECT 2', ['SELECT 1 AS "a;""b"', "SELECT 2"], id="names"),
        pytest.param("DO $$ BEGIN; END; $$; SELECT 2", ["DO $$ BEGIN; END; $$", "SELECT 2"], id="a body"),
        pytest.param("DO $a$ $$;$b$ $a$; SELECT 2", ["DO $a$ $$;$b$ $a$", "SELECT 2"], id="a body with a tag"),
        pytest.param("SELECT a$b$ FROM t; SELECT $1;", ["SELECT a$b$ FROM t", "SELECT $1"], id="dollars in names"),
        pytest.param("SELECT '--'; SELECT 2", ["SELECT '--'", "SELECT 2"], id="no comment"),
    ],
)
def test_a_text_is_split_into_statements(text: str, statements: list[str]) -> None:
    assert split_statements(text) == statements


def test_every_statement_of_a_migration_begins_with_a_keyword() -> None:
    for migration in sql.migrations():
        for statement in migration.statements:
            assert statement.split()[0] in {"ALTER", "CALL", "COMMENT", "CREATE", "DROP", "INSERT", "UPDATE"}, statement
