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
    UpdateExportRunStatus,
)
from .results import CheckedClaims, ExportHistory, ExportRun, ExportRunWithClaims, FoundRuns

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

OPERATIONS: Final = (
    CREATE_EXPORT_RUN,
    UPDATE_EXPORT_RUN_STATUS,
    GET_EXPORT_HISTORY,
    GET_EXPORT_RUN_BY_ID,
    FIND_RUNS_BY_CLAIM_ID,
    CHECK_CLAIMS,
    DELETE_EXPORT_RUN,
)
