"""Every hot query finds its rows by an index, whatever the arguments, and with a plan made for any."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

import sql
from handlers.connection import Connection
from handlers.history import NEWEST, Position
from schema.limits import FOUND_RUNS_MAX, HISTORY_TOTAL_RUNS_MAX, TIME_MAX, TIME_MIN
from tests.conftest import TEMPLATE, connected, with_database

# Run n: id uuid(n), n minutes after the start, claims 10 n to 10 n + 9. The first 15,000 are of the largest
# organisation, the others of fifty. Claim "1" has been exported by 10,000 organisations.
START = datetime(2026, 1, 1, tzinfo=UTC)
RUNS_OF_LARGEST = 15_000
SEED = """
INSERT INTO export_runs (
    run_id, org_id, created_at, created_event_id, created_digest, triggered_by, format, target_system, status,
    finished_at, finished_event_id, finished_digest, claim_count
)
SELECT
    lpad(to_hex(n), 32, '0')::uuid,
    CASE WHEN n <= 15000 THEN 'largest' ELSE 'org-' || n % 50 END,
    '2026-01-01Z'::timestamptz + n * interval '1 minute', gen_random_uuid(), '', 'alice', 'csv', 'ledger',
    'completed', '2026-01-02Z'::timestamptz + n * interval '1 minute', gen_random_uuid(), '', 10
FROM generate_series(1, 20000) AS n;

INSERT INTO export_run_claims (claim_id, org_id, run_id, outcome)
SELECT
    'claim-' || number, org_id, run_id,
    CASE WHEN number % 100 = 0 THEN 'attempted' ELSE 'exported' END::claim_outcome
FROM generate_series(10, 200009) AS number
JOIN export_runs ON run_id = lpad(to_hex(number / 10), 32, '0')::uuid;

INSERT INTO export_run_claims (claim_id, org_id, run_id, outcome)
SELECT '1', 'crowd-' || n, lpad(to_hex(n), 32, '0')::uuid, 'exported' FROM generate_series(1, 10000) AS n;
INSERT INTO export_run_claims (claim_id, org_id, run_id, outcome)
VALUES ('1', 'largest', lpad(to_hex(1), 32, '0')::uuid, 'exported');

INSERT INTO export_run_events (event_id, event_type, origin, run_id, org_id, occurred_at, payload)
SELECT run_id, 'run-created', 'event', run_id, org_id, created_at, '{}' FROM export_runs;

INSERT INTO claim_leases (claim_id, org_id, run_id, expires_at, fencing_token)
SELECT claim_id, org_id, run_id, now(), 1 FROM export_run_claims WHERE claim_id LIKE '%7' AND claim_id <> '1';

INSERT INTO claim_overrides (run_id, claim_id, org_id, earlier_run_id, reason, approved_by)
SELECT run_id, claim_id, org_id, run_id, 'a test', 'bob' FROM claim_leases;

INSERT INTO double_exports (org_id, claim_id, first_run_id, second_run_id, found_by, published_at)
SELECT org_id, claim_id, run_id, run_id, 'repeated-in-run', now() FROM claim_leases;
"""

OURS = {
    "export_runs",
    "export_run_claims",
    "export_run_events",
    "claim_leases",
    "claim_overrides",
    "double_exports",
}

SLOW_JOINS = {"Hash Join", "Merge Join", "Hash Anti Join"}

Plan = dict[str, Any]
Arguments = list[Any]


@pytest.fixture(scope="module")
def loaded_url(template_url: str) -> Iterator[str]:
    """A database with enough in it that it matters how it is read."""
    name = f"export_runs_test_{uuid4().hex}"
    url = with_database(template_url, name)

    async def load() -> None:
        admin = await asyncpg.connect(template_url)
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        await admin.close()
        connection = await asyncpg.connect(url)
        await connection.execute(SEED)
        await connection.execute("VACUUM (ANALYZE)")
        await connection.close()

    async def drop() -> None:
        admin = await asyncpg.connect(template_url)
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()

    asyncio.run(load())
    yield url
    asyncio.run(drop())


@pytest.fixture
async def loaded(loaded_url: str) -> AsyncIterator[Connection]:
    """A connection to it, set up as the worker sets up its own."""
    connection = await connected(loaded_url)
    yield connection
    await connection.close()


def literal(value: object) -> str:
    """A value as an argument of EXECUTE."""
    if value is None:
        return "NULL"
    if isinstance(value, bool | int):
        return str(value).lower()
    if isinstance(value, list):
        return literal("{" + ",".join(map(str, value)) + "}")
    return "'" + str(value).replace("'", "''") + "'"


async def explain(connection: Connection, name: str, arguments: Arguments, *options: str) -> Plan:
    """How PostgreSQL runs a query, as a tree."""
    await connection.execute(f"PREPARE explained AS {sql.query(name)}")
    call = f"EXECUTE explained ({', '.join(map(literal, arguments))})"
    [plan] = json.loads(await connection.fetchval(f"EXPLAIN ({', '.join([*options, 'FORMAT JSON'])}) {call}"))
    await connection.execute("DEALLOCATE explained")
    root: Plan = plan["Plan"]
    return root


def nodes(plan: Plan) -> Iterator[Plan]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def indexes(plan: Plan) -> set[str]:
    return {node["Index Name"] for node in nodes(plan) if "Index Name" in node}


def read_whole(plan: Plan) -> set[str]:
    """The tables of ours that are read from end to end."""
    return {node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"} & OURS


async def pages_touched(connection: Connection, name: str, arguments: Arguments) -> int:
    plan = await explain(connection, name, arguments, "ANALYZE", "BUFFERS")
    assert plan["Actual Rows"] > 0
    touched: int = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    return touched


def run_id(number: int) -> UUID:
    return UUID(int=number)


def claims(count: int) -> list[str]:
    """Claims of many runs, a few of them not exported."""
    return [f"claim-{10 + 13 * number}" for number in range(count)]


def after(number: int) -> Position:
    """Where a page ends whose last run is this one of the largest organisation."""
    return Position(START + timedelta(minutes=number), run_id(number))


def page(org_id: str, below: Position = NEWEST, status: str | None = None, offset: int = 0) -> Arguments:
    return [org_id, *below, TIME_MIN, TIME_MAX, status, None, False, 21, offset]


def counted(org_id: str, status: str | None = None) -> Arguments:
    return [org_id, TIME_MIN, TIME_MAX, status, None, False, HISTORY_TOTAL_RUNS_MAX + 1]


def of(org_id: str, claim_ids: list[str]) -> Arguments:
    return [[org_id], ["\x1f".join(claim_ids)]]


def finished(*numbers: int) -> Arguments:
    """Runs that end once more."""
    row = "completed", "2026-01-01Z", uuid4(), "digest", "CODE", "detail", "key", "sha256", 1, "ack", 10, 0
    columns = [[value] * len(numbers) for value in row]
    return [[run_id(number) for number in numbers], ["largest"] * len(numbers), *columns]


CLAIMS, CLAIMS_OF_RUN = "export_run_claims_pkey", "export_run_claims_of_run"
LEASES, LEASES_OF_RUN, OVERRIDES = "claim_leases_pkey", "claim_leases_of_run", "claim_overrides_pkey"
DOUBLES, UNPUBLISHED, PENDING = "double_exports_of_organisation", "double_exports_unpublished", "export_runs_pending"
RUNS, HISTORY, LOG = "export_runs_pkey", "export_runs_history", "export_run_events_pkey"

# A query, its arguments, the indexes it is to use.
FEW_ROWS: dict[str, tuple[str, Arguments, set[str]]] = {
    "check 1 claim": ("find_exports_and_leases", of("largest", claims(1)), {CLAIMS, RUNS, LEASES}),
    "first page": ("list_history", page("largest"), {HISTORY}),
    "deep page": ("list_history", page("largest", after(120)), {HISTORY}),
    "page of a small organisation": ("list_history", page("org-7"), {HISTORY}),
    "page of nobody": ("list_history", page("nobody"), {HISTORY}),
    "count of a small organisation": ("count_history", counted("org-7"), {HISTORY}),
    "runs of a claim": ("find_runs_by_claim", ["claim-77", None, FOUND_RUNS_MAX], {CLAIMS, RUNS}),
    "own runs of a claim": ("find_runs_by_claim", ["claim-77", "largest", FOUND_RUNS_MAX], {CLAIMS, RUNS}),
    "run with claims": ("get_run_with_claims", [run_id(5), "largest"], {RUNS, CLAIMS_OF_RUN}),
    "run": ("get_run_for_update", [run_id(5)], {RUNS}),
    "reused ids": ("find_reused_event_ids", [[run_id(1), run_id(2)], ["{}"] * 2, "run-created"], {LOG}),
    "double exports of runs": (
        "record_double_exports",
        [[run_id(1), run_id(2)], ["largest"] * 2, ["claim-17\x1fclaim-18", "claim-27"]],
        {CLAIMS, OVERRIDES},
    ),
    "leases of runs": ("free_leases", [[run_id(1), run_id(2)], ["largest"] * 2, None], {LEASES_OF_RUN, LEASES}),
    "overrides of a run": ("list_overrides", [run_id(1), "largest", 100], {OVERRIDES}),
    "double exports": ("list_double_exports", ["org-7", 2**62, False, 21], {DOUBLES}),
    "outbox": ("list_unpublished_alerts", [100], {UNPUBLISHED}),
    "stale runs": ("list_stale_runs", [86_400, TIME_MIN, UUID(int=0), None, 21], {PENDING}),
    "freed by a purge": ("freed_by_purge", [run_id(5)], {CLAIMS_OF_RUN, CLAIMS}),
    "ends of runs": ("merge_finished", finished(1, 2), {CLAIMS_OF_RUN, LEASES_OF_RUN}),
    "claims of a purge": ("purge_claims", [run_id(5)], {CLAIMS_OF_RUN}),
}
# Of these so many rows that here, where a table has 20,000, a plan made for them may read it whole.
MANY_ROWS: dict[str, tuple[str, Arguments, set[str]]] = {
    "check 500 claims": ("find_exports_and_leases", of("largest", claims(500)), {CLAIMS, RUNS, LEASES}),
    "check 10,000 claims": ("find_exports_and_leases", of("largest", claims(10_000)), {CLAIMS, RUNS, LEASES}),
    "count": ("count_history", counted("largest"), {HISTORY}),
    "count of a rare status": ("count_history", counted("largest", "failed"), {HISTORY}),
    "page by offset": ("list_history", page("largest", offset=10_000), {HISTORY}),
    "page of a rare status": ("list_history", page("largest", status="failed"), {HISTORY}),
    "crowded claim": ("find_exports_and_leases", of("largest", ["1"]), {CLAIMS, RUNS, LEASES}),
    "crowded claim's own runs": ("find_runs_by_claim", ["1", "largest", FOUND_RUNS_MAX], {CLAIMS, RUNS}),
    "reused ids of a batch": (
        "find_reused_event_ids",
        [[run_id(number) for number in range(1, 251)], ["{}"] * 250, "run-created"],
        {LOG},
    ),
}
ALL = FEW_ROWS | MANY_ROWS


@pytest.mark.parametrize("case", FEW_ROWS)
async def test_a_plan_made_for_the_arguments_uses_the_indexes(loaded: Connection, case: str) -> None:
    await loaded.execute("SET plan_cache_mode = force_custom_plan")
    name, arguments, expected = FEW_ROWS[case]
    plan = await explain(loaded, name, arguments)
    assert (read_whole(plan), indexes(plan)) == (set(), expected)


@pytest.mark.parametrize("case", ALL)
async def test_a_plan_made_for_any_arguments_uses_the_indexes(loaded: Connection, case: str) -> None:
    await loaded.execute("SET plan_cache_mode = force_generic_plan")
    name, arguments, expected = ALL[case]
    plan = await explain(loaded, name, arguments)
    assert (read_whole(plan), indexes(plan)) == (set(), expected)


@pytest.mark.parametrize("case", ALL)
async def test_the_workers_own_plan_uses_the_indexes(loaded: Connection, case: str) -> None:
    """With what the worker's connections ask of PostgreSQL, from the first execution on."""
    name, arguments, expected = ALL[case]
    plan = await explain(loaded, name, arguments)
    assert (read_whole(plan), indexes(plan)) == (set(), expected)


async def test_claims_to_free_are_found_by_their_hash(loaded: Connection) -> None:
    """Each compared with each, 10,000 of them take over a second."""
    plan = await explain(loaded, "free_leases", [[run_id(1)], ["largest"], claims(10_000)])
    [found] = [node["Filter"] for node in nodes(plan) if "Filter" in node]
    assert "hashed SubPlan" in found


async def test_plans_made_for_empty_tables_read_none_of_them_whole(connection: Connection) -> None:
    """They fill up while the plan goes on being used."""
    await connection.execute("VACUUM (ANALYZE) claim_leases, claim_overrides, double_exports")
    plans = {case: await explain(connection, name, arguments) for case, (name, arguments, _) in ALL.items()}
    await connection.close()
    assert {case: read_whole(plan) for case, plan in plans.items() if read_whole(plan)} == {}
    joins = {case: {node["Node Type"] for node in nodes(plan)} & SLOW_JOINS for case, plan in plans.items()}
    assert {case: found for case, found in joins.items() if found} == {}


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_a_page_of_history_is_read_in_its_order(loaded: Connection, mode: str) -> None:
    await loaded.execute(f"SET plan_cache_mode = {mode}")
    plan = await explain(loaded, "list_history", page("largest"))
    assert [node["Node Type"] for node in nodes(plan)] == ["Limit", "Index Scan"]


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_a_deep_page_costs_what_the_first_one_does(loaded: Connection, mode: str) -> None:
    await loaded.execute(f"SET plan_cache_mode = {mode}")
    first = await pages_touched(loaded, "list_history", page("largest"))
    for number in (RUNS_OF_LARGEST // 2, 120):
        assert await pages_touched(loaded, "list_history", page("largest", after(number))) <= 3 * first


@pytest.mark.parametrize("case", [case for case in ALL if case.startswith("crowded")])
async def test_a_claim_of_others_costs_nothing(loaded: Connection, case: str) -> None:
    """Claim "1" of ten thousand organisations is no more than another claim to each of them."""
    await loaded.execute("SET plan_cache_mode = force_generic_plan")
    name, arguments, _ = ALL[case]
    assert await pages_touched(loaded, name, arguments) <= 15
