"""The pages are correct: links lead somewhere, named files exist, tables agree with the code."""

import ast
import dataclasses
import importlib
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import typer

from cli.console import Exit
from cli.main import app
from schema import limits
from schema.errors import DeadLetterCode, ErrorCode
from schema.events import RunStatus
from schema.operations import OPERATIONS
from tests.pages import PAGES, ROOT, anchors, code, links, name, read, rows
from worker.limits import DEFAULT_LIMITS
from worker.metrics import REGISTRY
from worker.routes import ROUTES, Part
from worker.session import WorkerParts
from worker.settings import WorkerSettings

README_LINES_MAX = 150

OPERATING = read("docs/OPERATIONS.md")
CONTRACT = read("docs/CONTRACT.md")

IDENTIFIER = re.compile(r"`([A-Za-z_]\w+)`")
FILE = re.compile(r"(?:[\w.-]+/)*[\w-]+\.(?:py|sql|md|toml|yml|json|sh|lock)")
FOLDER = re.compile(r"(?:[\w-]+/)+")
NOT_COMMITTED = {"last.json", "build/sbom.json"}
"""Files that the pages name, but that are not committed."""

LEVELS = {"debug", "info", "warning", "error", "critical"}

every_page = pytest.mark.parametrize("page", PAGES, ids=name)


def test_the_readme_is_short() -> None:
    assert len(read("README.md").splitlines()) <= README_LINES_MAX


@every_page
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for link in links(page.read_text(encoding="utf-8")):
        if link.target.startswith(("https://", "http://")):
            continue
        target = (page.parent / link.target).resolve() if link.target else page
        if not target.exists() or (link.anchor and link.anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(f"{link.target}#{link.anchor}")
    assert broken == []


@every_page
def test_every_link_to_a_name_leads_to_the_file_that_defines_it(page: Path) -> None:
    missing = []
    for link in links(page.read_text(encoding="utf-8")):
        identifier = IDENTIFIER.fullmatch(link.text)
        if identifier and link.target.endswith(".py"):
            defined = (page.parent / link.target).read_text(encoding="utf-8")
            if not re.search(rf"^(?:class |def |async def )?{identifier[1]}\b", defined, re.MULTILINE):
                missing.append(f"{identifier[1]} in {link.target}")
    assert missing == []


@every_page
def test_every_named_file_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = [*code(text), *(link.text for link in links(text))]
    files = {each for each in named if FILE.fullmatch(each) or FOLDER.fullmatch(each)}
    places = (ROOT, page.parent, ROOT / "sql/queries", ROOT / "sql/migrations")
    assert [
        each for each in sorted(files - NOT_COMMITTED) if not any((place / each).exists() for place in places)
    ] == []


def test_every_named_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    named = {target for page in PAGES for target in re.findall(r"\bmake ([a-z]+)\b(?=[`\s])", command_lines(page))}
    assert named
    assert named <= targets


def test_every_named_command_and_option_exists() -> None:
    """A command in a page is `export-runs` and its words, up to the first argument."""
    named = {line.strip() for page in PAGES for line in command_lines(page).splitlines() if "export-runs " in line}
    commands = [match[1] for line in named for match in re.finditer(r"^export-runs ((?:-{0,2}[\w-]+ ?)+)", line)]
    assert len(commands) > 20
    assert [each for each in commands if not is_a_command(each.split())] == []


def test_every_command_is_in_the_list() -> None:
    listed = re.findall(r"^    export-runs (.+?)(?:  |$)", OPERATING, re.MULTILINE)
    assert [each for each in command_names() if not any(f"{line} ".startswith(f"{each} ") for line in listed)] == []


def command_names() -> Iterator[str]:
    """The words of each command, such as `claims check`."""
    commands: Any = typer.main.get_command(app)
    for word in commands.list_commands(None):
        command = commands.get_command(None, word)
        yield from (f"{word} {each}" for each in command.commands) if hasattr(command, "commands") else (word,)


@pytest.mark.parametrize("page", ["docs/OPERATIONS.md", "docs/AUDIT.md", "docs/CONTRACT.md"])
def test_every_section_is_in_the_list_at_the_top(page: str) -> None:
    top, *sections = re.split(r"^(?=##+ )", read(page), flags=re.MULTILINE)
    listed = {link.anchor for link in links(top) if not link.target}
    assert [each for section in sections for each in anchors(section) - listed] == []


def is_a_command(words: list[str]) -> bool:
    """Whether words name a command of the command line, and options that it has."""
    command: Any = typer.main.get_command(app)
    for word in words:
        if word == "--":
            return True  # what follows is a program of somebody else
        if word.startswith("--"):
            options = {
                option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
            }
            if word not in {"--help", *options}:
                return False
        elif hasattr(command, "commands"):
            if word not in command.list_commands(None):
                return False
            command = command.get_command(None, word)
    return True


@pytest.mark.parametrize("words", ["dead-letters destroy", "purge --force", "histories"])
def test_a_command_that_does_not_exist_is_noticed(words: str) -> None:
    assert not is_a_command(words.split())


def command_lines(page: Path) -> str:
    """The code and the indented lines of a page, which may be commands."""
    text = page.read_text(encoding="utf-8")
    indented = [line for line in text.splitlines() if line.startswith("    ")]
    return "\n".join([*(f"{each} " for each in code(text)), *(f"{line} " for line in indented)])


def test_every_setting_is_in_the_table() -> None:
    shown = {row[0].strip("`").removeprefix("EXPORT_RUNS_"): row[1] for row in rows(OPERATING, "Settings")}
    expected = {}
    for setting, field in WorkerSettings.model_fields.items():
        default = "required" if field.is_required() else field.default
        if isinstance(default, tuple):
            default = f"`{','.join(default)}`"
        expected[setting.upper()] = (
            str(default).lower() if default is None or isinstance(default, bool) else str(default)
        )
    assert shown == expected


def test_every_metric_is_in_the_table() -> None:
    shown = {row[0].strip("`"): row[1] for row in rows(OPERATING, "Metrics")}
    families = [each for each in REGISTRY.collect() if each.name.startswith("export_runs_")]
    ours = {each.name + "_total" * (each.type == "counter"): each.type for each in families}
    assert shown == ours


def log_calls(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """The name and the level of each log event."""
    for call in ast.walk(tree):
        if not (isinstance(call, ast.Call) and call.args and isinstance(call.args[0], ast.Constant)):
            continue
        function = call.func
        choices = [function.body, function.orelse] if isinstance(function, ast.IfExp) else [function]
        for choice in choices:
            if isinstance(choice, ast.Attribute) and choice.attr in LEVELS and "log" in ast.unparse(choice.value):
                yield str(call.args[0].value), choice.attr


def test_every_log_event_is_in_the_table_with_its_levels() -> None:
    logged: dict[str, set[str]] = defaultdict(set)
    for folder in ("worker", "handlers", "cli"):
        for path in (ROOT / folder).rglob("*.py"):
            for event, level in log_calls(ast.parse(path.read_text(encoding="utf-8"))):
                logged[event].add(level)
    table = rows(OPERATING, "Log events")
    shown = {row[0].strip("`"): set(row[1].split(", ")) for row in table}
    assert len(shown) == len(table)
    assert shown == dict(logged)


def test_log_events_are_found_in_both_forms() -> None:
    found = log_calls(ast.parse("self._log.bind(a=1).error('one')\n(log.debug if x else log.warning)('two')"))
    assert sorted(found) == [("one", "error"), ("two", "debug"), ("two", "warning")]


def test_every_log_event_that_is_named_is_logged() -> None:
    """A name before the words "in the log" must be in the table of log events."""
    known = {row[0].strip("`") for row in rows(OPERATING, "Log events")}
    named = {event for page in PAGES for event in re.findall(r"`([a-z_]+)` in the log", page.read_text("utf-8"))}
    assert named
    assert named <= known


def test_every_error_code_is_in_the_table() -> None:
    shown = {row[0].strip("`"): row[2] for row in rows(CONTRACT, "Error codes")}
    assert shown == {code: str(code.retryable).lower() for code in ErrorCode}


def test_every_code_of_a_dead_letter_is_in_the_table() -> None:
    shown = [row[0].strip("`") for row in rows(CONTRACT, "Events that cannot be processed")]
    assert shown == list(DeadLetterCode)


def test_every_exit_code_is_in_the_table() -> None:
    assert [int(row[0]) for row in rows(OPERATING, "Exit codes")] == list(Exit)


def test_every_bound_of_the_contract_is_in_the_table() -> None:
    expected = {
        bound: value.date().isoformat() if isinstance(value, datetime) else f"{value:,}"
        for bound, value in vars(limits).items()
        if isinstance(value, int | datetime)
    }
    assert {row[0].strip("`"): row[1] for row in rows(CONTRACT, "Bounds")} == expected


def test_every_bound_of_a_worker_is_in_the_table() -> None:
    expected = {bound: f"{value:,}".removesuffix(".0") for bound, value in dataclasses.asdict(DEFAULT_LIMITS).items()}
    assert {row[0].strip("`"): row[1] for row in rows(OPERATING, "Bounds of a worker")} == expected


def test_every_bound_of_the_queues_in_the_table_has_its_value() -> None:
    wrong = []
    for cell, shown, _ in rows(OPERATING, "Bounds of the queues and of the locks"):
        [link] = links(cell)
        module = importlib.import_module(link.target.removeprefix("../").removesuffix(".py").replace("/", "."))
        value = getattr(module, link.text.strip("`"))
        if shown != f"{value:,}":
            wrong.append(f"{cell}: {value}")
    assert wrong == []


def test_what_a_worker_needs_follows_from_its_bounds() -> None:
    events, requests = (WorkerParts(routes=ROUTES.only(part)).database_connections_max for part in Part)
    assert f"up to {events} connections to PostgreSQL for events and up to {requests} for requests" in OPERATING
    assert f"at most {DEFAULT_LIMITS.prefetch_events} events of each event queue" in OPERATING
    sessions = read("docs/decisions/no-robust-connection.md")
    assert f"at most {DEFAULT_LIMITS.prefetch_events:,} of each event queue" in sessions
    assert f"holds {DEFAULT_LIMITS.prefetch_events:,} bad ones of one event queue" in OPERATING


def test_the_contract_has_a_section_for_every_operation() -> None:
    assert {operation.name for operation in OPERATIONS} <= anchors(CONTRACT)


def test_the_diagram_shows_every_rise_of_a_status_and_no_fall() -> None:
    arrows = re.findall(r"^ +(\w+|\[\*\]) --> (\w+):", read("docs/MERGE_RULES.md"), re.MULTILINE)
    upwards = itertools.combinations(["[*]", *RunStatus], 2)
    assert sorted(arrows) == sorted(upwards)


def test_every_decision_is_in_the_index() -> None:
    index = {link.target for link in links(read("docs/decisions/README.md"))}
    pages = {path.name for path in (ROOT / "docs/decisions").glob("*.md")} - {"README.md"}
    assert pages <= index


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [("# A claim's way", "a-claims-way"), ("## `run-created`", "run-created"), ("## [A](b), c", "a-c")],
)
def test_anchors_are_those_of_github(heading: str, anchor: str) -> None:
    assert anchors(heading) == {anchor}
