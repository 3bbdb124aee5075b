"""Each operation of the contract is a method of the client, with the fields of its request as parameters."""

import inspect
from typing import Any, get_args, get_type_hints

import pytest

from export_runs_client import Export, ExportRuns, sync
from schema.operations import OPERATIONS, Operation


def parameters(method: Any) -> set[str]:
    """The names of the parameters, and of the keys of `**facts`."""
    found = set()
    for parameter in inspect.signature(method).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            (facts,) = get_args(get_type_hints(method)[parameter.name])
            found |= set(facts.__annotations__)
        else:
            found.add(parameter.name)
    return found - {"self"}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_an_operation_is_a_method(operation: Operation[Any, Any]) -> None:
    method = getattr(ExportRuns, operation.name.replace("-", "_"))
    assert parameters(method) == set(operation.request.model_fields)
    assert get_type_hints(method)["return"].__name__ == operation.result.__name__


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_a_default_is_that_of_the_contract(operation: Operation[Any, Any]) -> None:
    method = getattr(ExportRuns, operation.name.replace("-", "_"))
    for parameter in inspect.signature(method).parameters.values():
        if parameter.default is not inspect.Parameter.empty:
            assert parameter.default == operation.request.model_fields[parameter.name].default


@pytest.mark.parametrize(
    ("asynchronous", "synchronous"), [(ExportRuns, sync.ExportRuns), (Export, sync.Export)], ids=["runs", "export"]
)
def test_the_synchronous_client_has_each_method(asynchronous: type, synchronous: type) -> None:
    for name, method in inspect.getmembers(asynchronous, inspect.isfunction):
        if not name.startswith("_") and name != "lasting":
            assert inspect.signature(getattr(synchronous, name)) == inspect.signature(method), name
