"""Each command with the least role that docs/OPERATIONS.md names for it, and most of them refused to a lesser one."""

import asyncio
import os
import re
from pathlib import Path
from typing import Final
from uuid import uuid4

import asyncpg

import sql
from local.postgresql_programs import client_program
from sql.connection import Connection
from tests.commands import worker_process
from tests.conftest import as_role, make_roles, worker_settings
from tests.forked import forked_export_runs
from tests.log_history import RUN_A, write_history
from tests.pages import ROOT, code, read, rows
from tests.wire import Wire, run_finished
from worker.settings import WorkerSettings

FOLDER: Final = ROOT / "examples/import"
PURGE: Final = ["purge", str(RUN_A), "--yes"]

COMMANDS: Final[list[tuple[str, str | None, list[str]]]] = [
    ("owner", None, ["migrate"]),
    ("operator", None, ["status"]),
    ("auditor", "worker", ["verify"]),
    ("auditor", "worker", ["report", "--output", "report.html"]),
    ("auditor", None, ["import", f"{FOLDER}/visma.csv", "--mapping", f"{FOLDER}/visma.toml", "--source", "x"]),
    ("worker", "operator", ["dead-letters", "discard", "--all", "--reason", "x", "--yes"]),
    ("owner", "worker", PURGE),
    ("worker", "operator", ["unpurge", str(RUN_A)]),
    ("owner", "worker", ["after-restore", "--leases-end-in-s=0"]),
    ("owner", "worker", ["rebuild"]),
]
"""Commands with the least role that may run each, and with one that may not."""


def settings_as(settings: WorkerSettings, role: str) -> WorkerSettings:
    url = as_role(settings.database_url.get_secret_value(), role)
    return worker_settings(settings.amqp_url.get_secret_value(), url)


async def test_each_command_runs_under_its_least_role(
    settings: WorkerSettings, wire: Wire, connection: Connection, tmp_path: Path
) -> None:
    await make_roles(settings.database_url.get_secret_value())
    await write_history(connection)
    async with worker_process(settings_as(settings, "worker")) as worker:
        await worker.until_parts_started()
        event = run_finished(claimIds=["c-1"])
        await wire.publish("run-finished", event)
        await wire.until_run(event["runId"])
    await wire.publish("run-created", {}, exchange="export-runs.dead-letter", message_id=str(uuid4()))
    for role, lesser, words in COMMANDS:
        command = [str(tmp_path / word) if word == "report.html" else word for word in words]
        if lesser is not None:
            refused = await forked_export_runs(
                *command, settings=settings_as(settings, lesser), EXPORT_RUNS_PURGE_ENABLED="true"
            )
            assert (refused.code, "permission denied" in refused.err) in ((1, False), (2, True)), (command, refused)
            assert re.search("permission denied|may not|belongs to the role|another role", refused.err), refused
        done = await forked_export_runs(
            *command, settings=settings_as(settings, role), EXPORT_RUNS_PURGE_ENABLED="true"
        )
        assert done.code == 0, (command, done)
    # What rebuild has made is granted as what was there.
    owner = await asyncpg.connect(as_role(settings.database_url.get_secret_value(), "owner"))
    assert await owner.fetch(sql.query("list_changes_of_grants")) == []
    await owner.close()


def test_the_page_names_these_roles() -> None:
    table = rows(read("docs/OPERATIONS.md"), "Roles of the database")
    by_page = {command: next(code(role)) for role, *_, commands in table for command in code(commands)}
    for role, _, command in COMMANDS:
        name = " ".join(command[:2]) if command[0] == "dead-letters" else command[0]
        assert by_page[name] == f"export_runs_{role}"
    assert by_page["worker"] == "export_runs_worker"


async def test_the_printed_sql_makes_the_roles_and_the_compose_file_their_passwords(
    settings: WorkerSettings, empty_url: str
) -> None:
    printed = await forked_export_runs("migrate", "--roles", settings=settings)
    assert (printed.code, printed.out.strip()) == (0, sql.roles().strip())
    name = empty_url.rpartition("/")[2]
    variables = {"EXPORT_RUNS_OWNER_PASSWORD": "a'b", "EXPORT_RUNS_WORKER_PASSWORD": "c$d"}
    script = printed.out + (ROOT / "deploy/compose-passwords.sql").read_text()
    process = await asyncio.create_subprocess_exec(
        client_program("psql"), "--quiet", "--set=ON_ERROR_STOP=1", empty_url,
        env={**os.environ, **variables}, stdin=asyncio.subprocess.PIPE,
    )  # fmt: skip
    await process.communicate(script.encode())
    assert process.returncode == 0
    try:
        for user, password in (("export_runs_owner", "a'b"), ("export_runs_worker", "c$d")):
            entered = await asyncpg.connect(empty_url, user=user, password=password)
            assert await entered.fetchval("SELECT current_database()") == name
            await entered.close()
    finally:
        await make_roles(empty_url)
