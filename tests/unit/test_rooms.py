"""The rooms of worker/ are as docs/ARCHITECTURE.md shows them, and each uses only rooms of the floors below its own."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.pages import links, read, rows
from tests.source import ROOT, modules_imported, parsed, python_files


@dataclass(frozen=True)
class Room:
    """A module of worker/, or a folder in it."""

    floor: int
    uses: frozenset[str]


def shown() -> dict[str, Room]:
    """The rooms as the page shows them."""
    rooms = {}
    for floor, cell, _, uses in rows(read("docs/ARCHITECTURE.md"), "Inside the worker"):
        [link] = links(cell)
        names = [each.strip("` ") for each in uses.split(",")] if uses else []
        rooms[room_of(ROOT / link.text)] = Room(int(floor), frozenset(names))
    return rooms


def room_of(path: Path) -> str:
    """`session` for worker/session.py, `events` for all of worker/events/."""
    return path.relative_to(ROOT / "worker").parts[0].removesuffix(".py")


def rooms_imported(tree: ast.AST) -> Iterator[str]:
    for _, module in modules_imported(tree):
        package, *inside = module.split(".")
        if package == "worker":
            yield inside[0]


def built() -> dict[str, set[str]]:
    """The rooms, and what each of them uses, as the code has them."""
    rooms: dict[str, set[str]] = {}
    for path in python_files("worker"):
        room = room_of(path)
        if room != "__init__":
            rooms.setdefault(room, set()).update(set(rooms_imported(parsed(path))) - {room})
    return rooms


def test_the_page_shows_every_room_and_what_it_uses() -> None:
    assert {name: set(room.uses) for name, room in shown().items()} == built()


def test_every_room_uses_lower_floors_only() -> None:
    rooms = shown()
    assert [
        f"{name} uses {used}" for name, room in rooms.items() for used in room.uses if rooms[used].floor >= room.floor
    ] == []


@pytest.mark.parametrize(
    "statement",
    ["from worker.events.queue import EventQueue", "from worker import events", "import worker.events.queue"],
)
def test_every_form_of_an_import_is_noticed(statement: str) -> None:
    assert list(rooms_imported(ast.parse(f"def f():\n    {statement}"))) == ["events"]
