"""Reads the project's own files: which there are, and what its Python imports."""

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]

PRODUCT: Final = ("schema", "sql", "handlers", "worker", "cli")
"""The packages that are shipped."""

CLIENT: Final = "client"
"""The folder of the distribution for others, which they install without the product."""


@cache
def files() -> list[Path]:
    """Every file of the project: what git tracks or would add, or where there is no git, what lies here."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        capture_output=True,
        check=False,
        text=True,
    )
    names = [name for name in listed.stdout.split("\0") if name]
    found = [ROOT / name for name in names] or list(ROOT.rglob("*"))
    return sorted(path for path in found if path.is_file() and not hidden_or_made(path))


def hidden_or_made(path: Path) -> bool:
    made = {"__pycache__", "build", "dist", "node_modules"}
    folders = path.relative_to(ROOT).parts[:-1]
    return any(part in made or (part.startswith(".") and part != ".github") for part in folders)


def python_files(*folders: str) -> list[Path]:
    """The Python files in these folders, or all."""
    return [
        path
        for path in files()
        if path.suffix == ".py" and (not folders or any(path.is_relative_to(ROOT / folder) for folder in folders))
    ]


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def modules_imported(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Each absolute import with the whole name of its module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            if node.module in PRODUCT:
                yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)
            else:
                yield node, node.module or ""
