"""The list of operations: what can be asked, with what, and what comes back."""

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from .fields import WireModel
from .requests import (
    CheckClaims,
    CreateExportRun,
    DeleteExportRun,
    FindRunsByClaimId,
    GetExportHistory,
    GetExportRunById,
    ListDoubleExports,
    ListStaleRuns,
    ReleaseClaims,
    ReserveClaims,
    ResolveDoubleExport,
    UpdateExportRunStatus,
)
from .results import (
    CheckedClaims,
    DoubleExport,
    DoubleExports,
    ExportHistory,
    ExportRun,
    ExportRunWithClaims,
    FoundRuns,
    ReleasedClaims,
    ReservedClaims,
    StaleRuns,
)

Request = TypeVar("Request", bound=WireModel)
Result = TypeVar("Result", bound=WireModel)


@dataclass(frozen=True, slots=True)
class Operation(Generic[Request, Result]):
    """One question that can be asked. `name` is the routing key of its requests."""

    name: str
    request: type[Request]
    result: type[Result]


CREATE_EXPORT_RUN: Final = Operation("create-export-run", CreateExportRun, ExportRun)
UPDATE_EXPORT_RUN_STATUS: Final = Operation("update-export-run-status", UpdateExportRunStatus, ExportRun)
GET_EXPORT_HISTORY: Final = Operation("get-export-history", GetExportHistory, ExportHistory)
GET_EXPORT_RUN_BY_ID: Final = Operation("get-export-run-by-id", GetExportRunById, ExportRunWithClaims)
FIND_RUNS_BY_CLAIM_ID: Final = Operation("find-runs-by-claim-id", FindRunsByClaimId, FoundRuns)
CHECK_CLAIMS: Final = Operation("check-claims", CheckClaims, CheckedClaims)
DELETE_EXPORT_RUN: Final = Operation("delete-export-run", DeleteExportRun, ExportRun)
RESERVE_CLAIMS: Final = Operation("reserve-claims", ReserveClaims, ReservedClaims)
RELEASE_CLAIMS: Final = Operation("release-claims", ReleaseClaims, ReleasedClaims)
LIST_DOUBLE_EXPORTS: Final = Operation("list-double-exports", ListDoubleExports, DoubleExports)
RESOLVE_DOUBLE_EXPORT: Final = Operation("resolve-double-export", ResolveDoubleExport, DoubleExport)
LIST_STALE_RUNS: Final = Operation("list-stale-runs", ListStaleRuns, StaleRuns)

OPERATIONS: Final = (
    CREATE_EXPORT_RUN,
    UPDATE_EXPORT_RUN_STATUS,
    GET_EXPORT_HISTORY,
    GET_EXPORT_RUN_BY_ID,
    FIND_RUNS_BY_CLAIM_ID,
    CHECK_CLAIMS,
    DELETE_EXPORT_RUN,
    RESERVE_CLAIMS,
    RELEASE_CLAIMS,
    LIST_DOUBLE_EXPORTS,
    RESOLVE_DOUBLE_EXPORT,
    LIST_STALE_RUNS,
)
