"""Rules of this repository: who may import what, where SQL lives, what needs a docstring, what is never committed."""

import ast
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import sql
from local.postgresql import AS_SHIPPED
from tests.source import CLIENT, PRODUCT, ROOT, files, modules_imported, parsed, python_files

SHIPPED = (*PRODUCT, CLIENT)
EVERYTHING = (*SHIPPED, "local", "tests", "benchmarks", "examples")
FUNCTION_LINES_MAX = 60
MODULE_LINES_MAX = 500

SERVICE_FIXTURES = {
    "amqp_url",
    "connection",
    "database_url",
    "pool",
    "running_services",
    "template_url",
    "wire",
    "worker",
}
"""Fixtures that start RabbitMQ or PostgreSQL."""

SQL = re.compile(
    r"\bSELECT\s|\bINSERT INTO\b|\bUPDATE \S+ SET\b|\bDELETE FROM\b|\bTRUNCATE\b|\bLOCK TABLE\b"
    r"|\b(CREATE|ALTER|DROP) (TABLE|INDEX|TYPE|FUNCTION|TRIGGER|DATABASE|SCHEMA|ROLE)\b|\bpg_\w+\("
)
SENDING = {"fetch", "fetchrow", "fetchval", "execute", "executemany"}

Found = Iterable[ast.AST]


def imported(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Each import with the first part of its module's name; "." where it is relative."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            yield node, "." * node.level or (node.module or "").split(".")[0]


def imports_only(*allowed: str) -> Callable[[ast.Module], Found]:
    """Breaks on an import of anything but these and the standard library."""
    return lambda tree: [
        node for node, name in imported(tree) if name not in allowed and name not in sys.stdlib_module_names
    ]


def loads_only(*allowed: str) -> Callable[[ast.Module], Found]:
    """Breaks on an import of anything but these and the standard library, unless only a type checker reads it."""

    def find(tree: ast.Module) -> Found:
        for_types = {
            node
            for block in ast.walk(tree)
            if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
            for statement in block.body
            for node in ast.walk(statement)
        }
        return [node for node in imports_only(*allowed)(tree) if node not in for_types]

    return find


def imports_none_of(*forbidden: str) -> Callable[[ast.Module], Found]:
    """Breaks on an import of one of these."""
    return lambda tree: [node for node, name in imported(tree) if name in forbidden]


def models_beside_the_client(tree: ast.Module) -> Found:
    """Each import that brings the service's own models into a module which uses the client's: to build both is slow."""
    names = [name for _, name in imported(tree)]
    return imports_none_of("schema", "handlers", "sql")(tree) if "export_runs_client" in names else []


def imports_test_file(tree: ast.Module) -> Found:
    """Each import of a test file, where it is not pytest that imports it."""
    return [node for node, module in modules_imported(tree) if module.split(".")[-1].startswith("test_")]


def documented(tree: ast.Module) -> Iterator[tuple[ast.AST, str | None]]:
    """The module, its public classes and functions, and their public methods, each with its docstring."""
    if tree.body:
        yield tree.body[0], ast.get_docstring(tree)
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name.startswith("_"):
                continue
            yield node, ast.get_docstring(node)
        if isinstance(node, ast.ClassDef):
            waiting += node.body


def texts(tree: ast.Module) -> Iterator[ast.Constant]:
    """Every text that is more than a comment: no docstring, and no text that stands alone."""
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            yield node


def texts_like(pattern: re.Pattern[str]) -> Callable[[ast.Module], Found]:
    """Breaks on a text that has the pattern in it."""
    return lambda tree: [node for node in texts(tree) if pattern.search(str(node.value))]


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str, str]]:
    """Each call of `owner.name(...)`, with both names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node, ast.unparse(node.func.value), node.func.attr


def prints(tree: ast.Module) -> Found:
    """Each call of `print`, of typer's `echo` and of `write`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("print", "echo", "secho", "write"):
            yield node


def undocumented(tree: ast.Module) -> Found:
    return [node for node, docstring in documented(tree) if not docstring]


def long_functions(tree: ast.Module) -> Found:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            if node.end_lineno - node.lineno >= FUNCTION_LINES_MAX:
                yield node


def long_modules(tree: ast.Module) -> Found:
    """The first statement past the bound, if there is one."""
    return [node for node in tree.body if (node.end_lineno or 0) > MODULE_LINES_MAX][:1]


def services_used(tree: ast.Module) -> Found:
    """Each test that takes a fixture which starts a service."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names = {argument.arg for argument in node.args.args}
            if node.name.startswith("test_") and names & SERVICE_FIXTURES:
                yield node


def lost_tasks(tree: ast.Module) -> Found:
    """A task that nothing refers to may be collected while it runs, and its exception is never seen."""
    thrown_away = {
        id(node.value if isinstance(node, ast.Expr) else node.body)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr | ast.Lambda)
    }
    for call, owner, name in calls(tree):
        makes_task = name in ("create_task", "ensure_future") and owner.endswith(("asyncio", "loop", "loop()"))
        if makes_task and id(call) in thrown_away:
            yield call


def unnamed_statements(tree: ast.Module) -> Found:
    """Statements sent to the database that are not `sql.query("...")`."""
    for call, _, name in calls(tree):
        if name in SENDING:
            statement = ast.unparse(call.args[0]) if call.args else ""
            if not re.fullmatch(r"sql\.query\('\w+'\)", statement):
                yield call


def unstated_transactions(tree: ast.Module) -> Found:
    """Transactions that leave their isolation to the defaults of the session."""
    return [call for call, owner, name in calls(tree) if name == "transaction" and not owner.endswith("database")]


@dataclass(frozen=True)
class Rule:
    """What must not be found in the Python files of some folders but for a few, and an example of it."""

    name: str
    folders: tuple[str, ...]
    find: Callable[[ast.Module], Found]
    broken_by: str
    but: str = ""
    """A pattern of names."""


RULES = [
    Rule("schema is on its own", ("schema",), imports_only("pydantic", "pydantic_core", "."), "import schema"),
    Rule("sql is on its own", ("sql",), imports_only("asyncpg", "sql", "."), "import schema"),
    Rule(
        "the client knows the contract only",
        (CLIENT,),
        imports_only("aio_pika", "aiormq", "opentelemetry", "pydantic", "pydantic_core", "."),
        "from schema import names",
    ),
    Rule(
        "the client needs only what its wheel declares",
        (CLIENT,),
        loads_only("aio_pika", "opentelemetry", "pydantic", "pydantic_core", "."),
        "import aiormq",
    ),
    Rule("handlers know no worker", ("handlers",), imports_none_of("worker", "cli"), "from worker.app import x"),
    Rule("the worker knows no command", ("worker",), imports_none_of("cli"), "from cli.console import out"),
    Rule(
        "what is printed is escaped in one place",
        ("cli",),
        lambda tree: [*imports_none_of("rich")(tree), *prints(tree)],
        "print(1)",
        but="terminal",
    ),
    Rule(
        "how messages move knows no meaning",
        ("worker/broker", "worker/database"),
        imports_none_of("handlers"),
        "from handlers.errors import EventRefused",
    ),
    Rule(
        "handlers know no AMQP",
        ("handlers",),
        imports_none_of("aio_pika", "aiormq", "pamqp"),
        "def f():\n    import aio_pika",
    ),
    Rule(
        "the product needs nothing that is not shipped with it",
        PRODUCT,
        imports_none_of("tests", "local", "benchmarks"),
        "import local.services",
    ),
    Rule(
        "only commands use the client",
        ("schema", "sql", "handlers", "worker"),
        imports_none_of("export_runs_client"),
        "from export_runs_client import ExportRuns",
    ),
    Rule(
        "a command that asks by the client knows its models only",
        ("cli",),
        models_beside_the_client,
        "from export_runs_client.links import Link\nfrom schema import operations",
    ),
    Rule(
        "only sql reads .sql files",
        ("schema", "handlers", "worker", "cli"),
        texts_like(re.compile(r"\.sql\b")),
        "x = 'a.sql'",
    ),
    Rule(
        "queries have names",
        ("handlers", "worker"),
        unnamed_statements,
        "connection.fetch(f'{sql.query(1)} LIMIT 1')",
        but="migrations",
    ),
    Rule(
        "transactions state their isolation",
        PRODUCT,
        unstated_transactions,
        "async def f():\n    async with connection.transaction(): ...",
        but="connection",
    ),
    Rule(
        "who judges the product does not know it",
        ("tests/chaos",),
        imports_none_of(*PRODUCT),
        "from schema import names",
        but=r"planted|test_\w+",
    ),
    Rule("examples know the contract only", ("examples",), imports_none_of(*PRODUCT), "from schema import names"),
    Rule("explained", SHIPPED, undocumented, '"""A module."""\nclass A:\n    """A."""\n    def f(self): ...'),
    Rule("functions fit a screen", SHIPPED, long_functions, "def f():\n" + "    x\n" * FUNCTION_LINES_MAX),
    Rule("no test file is imported by another", ("tests",), imports_test_file, "from tests.unit.test_tidy import Rule"),
    Rule("unit tests need no services", ("tests/unit",), services_used, "def test_a(connection): ..."),
    Rule("modules have one subject", EVERYTHING, long_modules, "x = 1\n" * (MODULE_LINES_MAX + 1)),
    Rule("tasks are held", SHIPPED, lost_tasks, "asyncio.create_task(f())"),
    Rule("tasks in callbacks are held", SHIPPED, lost_tasks, "on(lambda: asyncio.ensure_future(f()))"),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_is_kept(rule: Rule) -> None:
    paths = [path for path in python_files(*rule.folders) if not re.fullmatch(rule.but, path.stem)]
    assert all(any(path.is_relative_to(ROOT / folder) for path in paths) for folder in rule.folders)
    assert [place(path, node) for path in paths for node in rule.find(parsed(path))] == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_can_be_broken(rule: Rule) -> None:
    assert list(rule.find(ast.parse(rule.broken_by)))


def place(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


SPOOL = ROOT / CLIENT / "export_runs_client" / "spool.py"
"""Its statements are SQLite's, and the client ships without the folder sql."""


def test_sql_lives_in_sql() -> None:
    elsewhere = [
        path for path in python_files() if path.relative_to(ROOT).parts[0] not in ("sql", "tests") and path != SPOOL
    ]
    find = texts_like(SQL)
    assert [place(path, node) for path in elsewhere for node in find(parsed(path))] == []


@pytest.mark.parametrize(
    "text", ["SELECT 1", "INSERT INTO t", "update: UPDATE t SET a = 1", "DROP TABLE t", "pg_sleep(1)"]
)
def test_sql_is_recognised(text: str) -> None:
    assert SQL.search(text)


def test_every_query_is_used_and_every_used_query_is_there() -> None:
    used = {
        call.args[0].value
        for path in python_files("handlers", "worker", "sql")
        for call, owner, name in calls(parsed(path))
        if (owner, name) == ("sql", "query") and isinstance(call.args[0], ast.Constant)
    }
    assert used == set(sql.query_names())


# In parts, so that this file does not find itself.
MACHINE_PATHS = re.compile(
    "|".join(
        [
            r"(?<![\w.~-])/" + r"(?:ho" + r"me|Us" + r"ers)/\w+",
            r"(?<![\w.~-])/" + r"ro" + r"ot/",
            r"(?<![\w.~-])/" + r"wo" + r"rk/",
            r"(?<![\w.~-])/" + r"tmp/[\w.]+",
            r"[A-Z]:\\" + r"Us" + r"ers\\",
        ]
    )
)
PRIVATE_HOSTS = re.compile(
    r"https?://[^\s/\"']*(?:arti" + r"factory|nex" + r"us|pro" + r"xy|mir" + r"ror|\.inter" + r"nal|\.corp)\b"
)
URL = re.compile(r"https?://[^\s\"'<>)]+")


def text_files() -> Iterator[tuple[Path, str]]:
    for path in files():
        try:
            yield path, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def test_no_file_names_a_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path, text in text_files()
        for pattern in (MACHINE_PATHS, PRIVATE_HOSTS)
        for match in pattern.finditer(text)
    ]
    assert found == []


REGISTRY_HOSTS = re.compile(r"\b(?:npm" + r"js\.(?:com|org)|py" + r"pi\.org|python" + r"hosted\.org)")


def test_no_file_names_a_registry() -> None:
    assert [path.name for path, text in text_files() if REGISTRY_HOSTS.search(text)] == []


def test_a_registry_is_recognised() -> None:
    assert REGISTRY_HOSTS.search("https://www.npm" + "js.com/package/amqplib")


def test_lock_files_name_no_registry() -> None:
    hosts = {
        urlsplit(url).hostname
        for path, text in text_files()
        if path.suffix == ".lock" or path.name.startswith("requirements")
        for url in URL.findall(text)
    }
    assert hosts == set()


@pytest.mark.parametrize("text", ["see /ho" + "me/me/x", "'/wo" + "rk/main'", "https://pypi.pro" + "xy.example/simple"])
def test_a_machine_is_recognised(text: str) -> None:
    assert MACHINE_PATHS.search(text) or PRIVATE_HOSTS.search(text)


PAGE = re.compile(r"(?<![\w*/.-])(?:[\w-]+/)*[\w-]+\.md\b")


def test_every_page_that_a_file_cites_is_there() -> None:
    pages = [f"/{path.relative_to(ROOT)}" for path in files() if path.suffix == ".md"]
    missing = [
        f"{path.relative_to(ROOT)}: {cited}"
        for path, text in text_files()
        if path.suffix != ".md"
        for cited in PAGE.findall(text)
        if not any(page.endswith(f"/{cited}") for page in pages)
    ]
    assert missing == []


def test_nothing_cites_a_page_that_does_not_ship() -> None:
    cited = re.compile(r"\bDESI" + r"GN\b")
    assert [str(path.relative_to(ROOT)) for path, text in text_files() if cited.search(text)] == []


@pytest.mark.parametrize("text", ["see docs/CONTRACT.md.", "(README.md)", "`docs/decisions/uvloop.md`"])
def test_a_cited_page_is_recognised(text: str) -> None:
    assert PAGE.search(text)


def test_the_image_is_built_from_every_package() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    [packages] = re.findall(r"^packages = (\[.*\])$", text, re.MULTILINE)
    assert set(ast.literal_eval(packages)) == {*PRODUCT, f"{CLIENT}/export_runs_client"}
    copied = re.findall(r"^COPY (\w+) \1$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    sent = re.findall(r"^!(\w+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(copied) == set(sent) == set(SHIPPED)


def test_benchmarks_run_on_the_postgresql_of_the_compose_file() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    [command] = re.findall(r"^ *(postgres -c .*)$", text, re.MULTILINE)
    assert dict(re.findall(r"-c (\w+)=(\S+)", command)) == AS_SHIPPED
