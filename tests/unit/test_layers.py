"""The modules of worker/ are in layers, as docs/ARCHITECTURE.md shows them, and each uses lower layers only."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.pages import links, read, rows
from tests.source import ROOT, modules_imported, parsed, python_files


@dataclass(frozen=True)
class Module:
    """A file of worker/, or a folder in it."""

    layer: int
    uses: frozenset[str]


def shown() -> dict[str, Module]:
    """The modules as the page shows them."""
    modules = {}
    for layer, cell, _, uses in rows(read("docs/ARCHITECTURE.md"), "Inside the worker"):
        [link] = links(cell)
        names = [each.strip("` ") for each in uses.split(",")] if uses else []
        modules[module_of(ROOT / link.text)] = Module(int(layer), frozenset(names))
    return modules


def module_of(path: Path) -> str:
    """`session` for worker/session.py, `events` for all of worker/events/."""
    return path.relative_to(ROOT / "worker").parts[0].removesuffix(".py")


def used_by(tree: ast.AST) -> Iterator[str]:
    """The modules of worker/ that some code imports."""
    for _, module in modules_imported(tree):
        package, *inside = module.split(".")
        if package == "worker":
            yield inside[0]


def built() -> dict[str, set[str]]:
    """The modules, and what each of them uses, as the code has them."""
    modules: dict[str, set[str]] = {}
    for path in python_files("worker"):
        module = module_of(path)
        if module != "__init__":
            modules.setdefault(module, set()).update(set(used_by(parsed(path))) - {module})
    return modules


def test_the_page_shows_every_module_and_what_it_uses() -> None:
    assert {name: set(module.uses) for name, module in shown().items()} == built()


def test_every_module_uses_lower_layers_only() -> None:
    modules = shown()
    assert [
        f"{name} uses {used}"
        for name, module in modules.items()
        for used in module.uses
        if modules[used].layer >= module.layer
    ] == []


@pytest.mark.parametrize(
    "statement",
    ["from worker.events.queue import EventQueue", "from worker import events", "import worker.events.queue"],
)
def test_every_form_of_an_import_is_noticed(statement: str) -> None:
    assert list(used_by(ast.parse(f"def f():\n    {statement}"))) == ["events"]
