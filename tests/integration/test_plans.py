"""Every hot query finds its rows by an index: with a plan for its arguments, and with one plan for all arguments."""

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from handlers.cursors import NEWEST, Position
from handlers.query_arguments import HistoryFilter
from local.postgresql import NOT_DURABLE, LocalPostgreSQL
from local.postgresql_programs import VERSIONS, chosen_version
from schema.limits import FOUND_RUNS_MAX, HISTORY_TOTAL_RUNS_MAX, PERIOD_RUNS_MAX, TIME_MAX, TIME_MIN
from sql.connection import Connection
from tests.conftest import connected
from tests.integration.full_database import (
    RUNS_OF_LARGEST,
    START,
    Arguments,
    Plan,
    explain,
    loaded_database,
    nodes,
)

OURS = {
    "export_runs",
    "export_run_claims",
    "export_run_events",
    "claim_leases",
    "claim_overrides",
    "claim_details",
    "double_exported_claims",
    "repeated_claims",
    "export_reversals",
    "claim_reversals",
    "reversal_grants",
    "alerts",
}

SLOW_JOINS = {"Hash Join", "Merge Join", "Hash Anti Join"}

NO_FILTER = HistoryFilter("", TIME_MIN, TIME_MAX, None, None, None, None, None, None, None, None, None, None, False)


@pytest.fixture(scope="module", params=VERSIONS)
def loaded_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database so full that a wrong plan shows, on each version of PostgreSQL."""
    if request.param == chosen_version():
        yield from loaded_database(request.getfixturevalue("running_services").database_url)
        return
    with LocalPostgreSQL(NOT_DURABLE, request.param) as server:
        yield from loaded_database(server.url)


@pytest.fixture
async def loaded(loaded_url: str) -> AsyncIterator[Connection]:
    """A connection to the full database, set up as the worker sets up its own."""
    connection = await connected(loaded_url)
    yield connection
    await connection.close()


def indexes(plan: Plan) -> set[str]:
    """The indexes that a plan uses. Either of two indexes of claim_overrides will do, and counts as OVERRIDES."""
    names = {node["Index Name"] for node in nodes(plan) if "Index Name" in node}
    return {OVERRIDES if name == OVERRIDES_OF_RUN else name for name in names}


def read_whole(plan: Plan) -> set[str]:
    """The tables of ours that a plan reads from end to end."""
    return {node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"} & OURS


def slow_joins(plan: Plan) -> set[str]:
    """The joins of a plan that read more of a table than they need. One that reads no table is none of them."""
    joins = [node for node in nodes(plan) if node["Node Type"] in SLOW_JOINS]
    return {join["Node Type"] for join in joins if any("Relation Name" in node for node in nodes(join))}


async def count_pages_read(connection: Connection, name: str, arguments: Arguments) -> int:
    """How many pages of the database a query reads. Asserts that it finds something."""
    plan = await explain(connection, name, arguments, "ANALYZE", "BUFFERS")
    assert plan["Actual Rows"] > 0
    count: int = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    return count


def run_id(number: int) -> UUID:
    return UUID(int=number)


def claims(count: int) -> list[str]:
    """So many claims, of many runs. A few of them are not exported."""
    return [f"claim-{10 + 13 * number}" for number in range(count)]


def after(number: int) -> Position:
    """The position of a run of the largest organisation in its history: a page may end there."""
    return Position(START + timedelta(minutes=number), run_id(number))


def runs_of(org_id: str, **filters: Any) -> HistoryFilter:
    return NO_FILTER._replace(org_id=org_id, **filters)


def page(org_id: str, below: Position = NEWEST, offset: int = 0, **filters: Any) -> Arguments:
    return [*runs_of(org_id, **filters), *below, 21, offset]


def counted(org_id: str, **filters: Any) -> Arguments:
    return [*runs_of(org_id, **filters), HISTORY_TOTAL_RUNS_MAX + 1]


def period(org_id: str, day: str) -> Arguments:
    """The question for the runs of one day."""
    return [org_id, day, day, None, None, TIME_MAX, PERIOD_RUNS_MAX + 1]


def of(org_id: str, claim_ids: list[str]) -> Arguments:
    return [[org_id], ["\x1f".join(claim_ids)], 200_000]


def ends(*numbers: int) -> Arguments:
    """Ends of runs of the largest organisation that have ended already."""
    row = (
        "completed",
        "2026-01-01Z",
        uuid4(),
        "digest",
        "CODE",
        "detail",
        "key",
        "sha256",
        1,
        "ack",
        10,
        0,
        None,
        False,
        False,
        False,
    )
    columns = [[value] * len(numbers) for value in row]
    run_ids, org_ids = [run_id(number) for number in numbers], ["largest"] * len(numbers)
    groups = [["exported"] * len(numbers), ["claim-1\x1fclaim-2"] * len(numbers), [None] * len(numbers)]
    return [run_ids, org_ids, *columns, run_ids, org_ids, *groups]


CLAIMS, CLAIMS_OF_RUN = "export_run_claims_pkey", "export_run_claims_of_run"
LEASES, LEASES_OF_RUN = "claim_leases_pkey", "claim_leases_of_run"
OVERRIDES, OVERRIDES_OF_RUN = "claim_overrides_of_claim", "claim_overrides_of_run"
RECORDS, OPEN, RESOLVED = (
    "double_exported_claims_pkey",
    "double_exported_claims_open",
    "double_exported_claims_resolved",
)
REPEATED, ALERTS, NEXT_ALERTS, PENDING = "repeated_claims_pkey", "alerts_pkey", "alerts_next", "export_runs_pending"
PERIOD, LAST_EXPORT = "export_runs_period", "export_runs_last_export"
RUNS, HISTORY, LOG = "export_runs_pkey", "export_runs_history", "export_run_events_pkey"
LOG_OF_RUN, LOG_OF_CLAIM = "export_run_events_run", "export_run_events_claims"
REVERSALS, REVERSALS_OF_RUN = "export_reversals_pkey", "export_reversals_of_run"
REVERSED, REVERSED_OF_RUN, GRANTS = "claim_reversals_pkey", "claim_reversals_of_run", "reversal_grants_pkey"
SPELLINGS, DETAILS = "respelled_claims_pkey", "claim_details_pkey"

# For each case: the query, its arguments, and the indexes that it must use.
FEW_ROWS: dict[str, tuple[str, Arguments, set[str]]] = {
    "check 1 claim": ("find_exports_and_leases", of("largest", claims(1)), {CLAIMS, RUNS, LEASES}),
    "first page": ("list_history", page("largest"), {HISTORY}),
    "deep page": ("list_history", page("largest", after(120)), {HISTORY}),
    "page of a small organisation": ("list_history", page("org-7"), {HISTORY}),
    "page of nobody": ("list_history", page("nobody"), {HISTORY}),
    "count of a small organisation": ("count_history", counted("org-7"), {HISTORY}),
    "explanation of a claim": (
        "explain_claim",
        ["largest", "claim-77", 10],
        {CLAIMS, RUNS, LEASES, OVERRIDES, REVERSED, REVERSALS, LOG_OF_CLAIM, SPELLINGS},
    ),
    "log of a claim": (
        "list_log_of_claim",
        ["largest", "claim-77", run_id(0), 51],
        {CLAIMS, LEASES, LOG_OF_CLAIM, LOG_OF_RUN, LOG, SPELLINGS},
    ),
    "entry of the log": ("get_log_payload", [run_id(5)], {LOG}),
    "ends of a run": ("list_ends_of_run", [run_id(5), "largest", 20], {LOG_OF_RUN}),
    "runs of a period": ("find_runs_of_period", period("org-7", "2022-01-01"), {PERIOD}),
    "last export": ("get_last_export", ["largest", None, None, TIME_MAX], {LAST_EXPORT}),
    "last export to a system": ("get_last_export", ["largest", "ledger", None, TIME_MAX], {LAST_EXPORT}),
    "runs of a claim": ("find_runs_by_claim", ["claim-77", None, FOUND_RUNS_MAX], {CLAIMS, RUNS}),
    "own runs of a claim": ("find_runs_by_claim", ["claim-77", "largest", FOUND_RUNS_MAX], {CLAIMS, RUNS}),
    "run with claims": (
        "get_run_with_claims",
        [run_id(5), "largest", 1_000_000],
        {RUNS, CLAIMS_OF_RUN, OVERRIDES, DETAILS},
    ),
    "page of the claims of a run": (
        "list_run_claims",
        [run_id(5), "largest", "", None, 1_000, 1_000_000],
        {RUNS, CLAIMS, CLAIMS_OF_RUN, OVERRIDES, DETAILS, REVERSED, REVERSALS},
    ),
    "newest reversals of a run": (
        "list_reversals_of_run",
        [run_id(1), "largest", 100],
        {REVERSED_OF_RUN, REVERSALS_OF_RUN},
    ),
    "run": ("get_run_for_update", [run_id(5)], {RUNS}),
    "state of a run": ("get_run_state", [run_id(5)], {RUNS}),
    "purged runs": ("find_purged_runs", [[run_id(1), run_id(2)]], {RUNS}),
    "counts of runs": ("recount_claims", [[run_id(1), run_id(2)]], {RUNS, CLAIMS_OF_RUN}),
    "overrides to remove": ("remove_overrides", [run_id(1), "largest", ["claim-17"]], {OVERRIDES, GRANTS}),
    "reused ids": ("find_reused_event_ids", [[run_id(1), run_id(2)], ["{}"] * 2, "run-created"], {LOG}),
    "logged events": ("find_logged_events", [[run_id(1), run_id(2)]], {LOG}),
    "other exports": ("find_other_exports", [*of("largest", claims(1))[:2], [run_id(1)], 100], {CLAIMS}),
    "double exports of runs": (
        "find_double_exports",
        [[run_id(1), run_id(2)], ["largest"] * 2, ["claim-17\x1fclaim-18", "claim-27"], [100, 100], 10],
        {CLAIMS, CLAIMS_OF_RUN, OVERRIDES, GRANTS, REVERSALS_OF_RUN, RUNS},
    ),
    "exports of a run": (
        "list_exports_of_run",
        [run_id(1), "largest", None],
        {CLAIMS_OF_RUN, REVERSED, REVERSALS},
    ),
    "reversals of a run": ("apply_reversals", [run_id(1), "largest"], {REVERSED_OF_RUN, CLAIMS, RUNS}),
    "runs of double exports": (
        "find_runs_of_double_exports",
        ["largest", "claim-17\x1fclaim-27", 1_001, 10],
        {CLAIMS, OVERRIDES, GRANTS, RUNS, REPEATED, REVERSED, REVERSALS},
    ),
    "overrides to withdraw": ("withdraw_overrides", [run_id(1), "largest", None], {LEASES_OF_RUN, OVERRIDES, GRANTS}),
    "leases of runs": ("free_leases", [[run_id(1), run_id(2)], ["largest"] * 2, None], {LEASES_OF_RUN, LEASES}),
    "overrides of a run": ("list_overrides", [run_id(1), "largest"], {OVERRIDES}),
    "double exports": ("list_double_exports", ["org-7", "claim-5", None, 21], {OPEN, RESOLVED}),
    "double export": ("get_double_export_for_update", ["largest", "claim-17"], {RECORDS}),
    "resolution": ("resolve_double_export", ["largest", "claim-17", "2026-01-01Z", "bob", "n"], {RECORDS}),
    "organisations with alerts": ("list_alert_organisations", ["org-2", 20], {ALERTS, NEXT_ALERTS}),
    "alerts to take": ("take_alerts", [["largest"], 5, 30.0], {NEXT_ALERTS, ALERTS}),
    "alerts to remove": ("remove_alerts", [["largest"] * 2, [run_id(1), run_id(2)]], {ALERTS}),
    "alerts to postpone": ("postpone_alerts", [["largest"] * 2, [run_id(1), run_id(2)], [1.0, 2.0]], {ALERTS}),
    "backlog": ("count_backlog", [86_400, 100], {ALERTS, OPEN, PENDING}),
    "stale runs": ("list_stale_runs", [86_400, TIME_MIN, UUID(int=0), None, 21], {PENDING}),
    "freed by a purge": ("list_claims_freed_by_purge", [run_id(5)], {CLAIMS_OF_RUN, CLAIMS, LEASES}),
    "claims of a run": ("list_claims_of_run", [run_id(5)], {CLAIMS_OF_RUN}),
    "what a run holds": ("get_live_lease_end", [run_id(5), "largest"], {LEASES_OF_RUN}),
    "writes of a run": ("list_logged_writes", [run_id(5), "largest", "run-created"], {LOG_OF_RUN}),
    "log of a run": ("list_log_of_run", [run_id(5), "largest", None], {LOG_OF_RUN}),
    "ends of runs": ("merge_finished", ends(1, 2), {CLAIMS_OF_RUN, LEASES_OF_RUN}),
    "claims of a purge": ("purge_claims", [run_id(5)], {CLAIMS_OF_RUN}),
    "details of a purge": ("purge_claim_details", [run_id(5)], {DETAILS}),
}
# These read so many rows that a plan for their arguments may read a table whole, because the tables here are small.
MANY_ROWS: dict[str, tuple[str, Arguments, set[str]]] = {
    "check 500 claims": ("find_exports_and_leases", of("largest", claims(500)), {CLAIMS, RUNS, LEASES}),
    "check 10,000 claims": ("find_exports_and_leases", of("largest", claims(10_000)), {CLAIMS, RUNS, LEASES}),
    "count": ("count_history", counted("largest"), {HISTORY}),
    "count of a rare status": ("count_history", counted("largest", status="failed"), {HISTORY}),
    "page by offset": ("list_history", page("largest", offset=10_000), {HISTORY}),
    "page of a rare status": ("list_history", page("largest", status="failed"), {HISTORY}),
    "runs of a period of the largest organisation": (
        "find_runs_of_period",
        period("largest", "2022-01-01"),
        {PERIOD},
    ),
    "crowded claim": ("find_exports_and_leases", of("largest", ["1"]), {CLAIMS, RUNS, LEASES}),
    "crowded claim's explanation": (
        "explain_claim",
        ["largest", "1", 10],
        {CLAIMS, RUNS, LEASES, OVERRIDES, REVERSED, REVERSALS, LOG_OF_CLAIM, SPELLINGS},
    ),
    "crowded claim's log": (
        "list_log_of_claim",
        ["largest", "1", run_id(0), 51],
        {CLAIMS, LEASES, LOG_OF_CLAIM, LOG_OF_RUN, LOG, SPELLINGS},
    ),
    "crowded claim's own runs": ("find_runs_by_claim", ["1", "largest", FOUND_RUNS_MAX], {CLAIMS, RUNS}),
    "reused ids of a batch": (
        "find_reused_event_ids",
        [[run_id(number) for number in range(1, 251)], ["{}"] * 250, "run-created"],
        {LOG},
    ),
}
ALL = FEW_ROWS | MANY_ROWS


@pytest.mark.parametrize("case", FEW_ROWS)
async def test_a_plan_for_the_arguments_uses_the_indexes(loaded: Connection, case: str) -> None:
    await loaded.execute("SET plan_cache_mode = force_custom_plan")
    name, arguments, expected = FEW_ROWS[case]
    plan = await explain(loaded, name, arguments)
    assert (read_whole(plan), indexes(plan)) == (set(), expected)


@pytest.mark.parametrize("case", ALL)
async def test_a_plan_for_all_arguments_uses_the_indexes(loaded: Connection, case: str) -> None:
    await loaded.execute("SET plan_cache_mode = force_generic_plan")
    name, arguments, expected = ALL[case]
    plan = await explain(loaded, name, arguments)
    assert (read_whole(plan), indexes(plan)) == (set(), expected)


@pytest.mark.parametrize("case", ALL)
async def test_the_plan_of_a_worker_uses_the_indexes(loaded: Connection, case: str) -> None:
    """It has the settings of the worker's connections, and uses the indexes from the first execution on."""
    name, arguments, expected = ALL[case]
    plan = await explain(loaded, name, arguments)
    assert (read_whole(plan), indexes(plan)) == (set(), expected)


async def test_free_leases_looks_its_claims_up_in_a_hash_table(loaded: Connection) -> None:
    """To compare each of 10,000 claims with each takes more than a second."""
    plan = await explain(loaded, "free_leases", [[run_id(1)], ["largest"], claims(10_000)])
    [condition] = [node["Filter"] for node in nodes(plan) if "Filter" in node]
    assert "hashed SubPlan" in condition


async def test_plans_that_were_made_for_empty_tables_use_the_indexes(connection: Connection) -> None:
    """PostgreSQL goes on using such a plan while the tables fill up."""
    await connection.execute(
        "VACUUM (ANALYZE) claim_leases, claim_overrides, double_exported_claims, repeated_claims, alerts, "
        "claim_details, export_reversals, claim_reversals, reversal_grants"
    )
    plans = {case: await explain(connection, name, arguments) for case, (name, arguments, _) in ALL.items()}
    await connection.close()
    assert {case: read_whole(plan) for case, plan in plans.items() if read_whole(plan)} == {}
    joins = {case: slow_joins(plan) for case, plan in plans.items()}
    assert {case: slow for case, slow in joins.items() if slow} == {}


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_a_page_of_history_is_read_from_the_index_in_order(loaded: Connection, mode: str) -> None:
    await loaded.execute(f"SET plan_cache_mode = {mode}")
    plan = await explain(loaded, "list_history", page("largest"))
    assert [node["Node Type"] for node in nodes(plan)] == ["Limit", "Index Scan"]


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_a_deep_page_reads_no_more_than_the_first_one(loaded: Connection, mode: str) -> None:
    await loaded.execute(f"SET plan_cache_mode = {mode}")
    first = await count_pages_read(loaded, "list_history", page("largest"))
    for number in (RUNS_OF_LARGEST // 2, 120):
        assert await count_pages_read(loaded, "list_history", page("largest", after(number))) <= 3 * first


@pytest.mark.parametrize("case", [case for case in ALL if case.startswith("crowded")])
async def test_claims_of_the_same_name_in_other_organisations_cost_nothing(loaded: Connection, case: str) -> None:
    """Ten thousand organisations have a claim "1"; a query of one organisation reads none of the others."""
    await loaded.execute("SET plan_cache_mode = force_generic_plan")
    name, arguments, _ = ALL[case]
    assert await count_pages_read(loaded, name, arguments) <= 40


async def test_the_last_export_is_the_first_that_is_read(loaded: Connection) -> None:
    name, arguments, _ = ALL["last export"]
    assert await count_pages_read(loaded, name, arguments) <= 20


async def test_what_is_read_for_a_period_does_not_grow_with_the_history(loaded: Connection) -> None:
    """Of 15,000 runs some 300 have this day in their period: no page is read for the others but of the index."""
    name, arguments, _ = ALL["runs of a period of the largest organisation"]
    assert await count_pages_read(loaded, name, arguments) <= 300


async def test_a_turn_of_the_outbox_reads_few_pages_however_full_it_is(loaded: Connection) -> None:
    """The largest organisation has thousands of alerts there."""
    assert await loaded.fetchval("SELECT count(*) FROM alerts WHERE org_id = 'largest'") > 10_000
    for case in ("organisations with alerts", "alerts to take"):
        name, arguments, _ = ALL[case]
        assert await count_pages_read(loaded, name, arguments) <= 150


async def test_a_page_of_double_exports_reads_few_pages(loaded: Connection) -> None:
    """Also where few records match the filter: the query does not read the others on its way."""
    for resolved in (None, False, True):
        arguments = ["largest", "claim-1", resolved, 21]
        assert await count_pages_read(loaded, "list_double_exports", arguments) <= 60
