"""The command `export-runs contract`: writes the files that describe the contract to machines, or checks them."""

import json
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import yaml

from cli.console import DISTRIBUTION, Exit, fail
from cli.contract.asyncapi import asyncapi_document
from cli.contract.json_schemas import schema_files
from cli.contract.pages import valid_examples
from cli.terminal import err, out
from schema.fields import counted

PAGE: Final = "CONTRACT.md"
DOCUMENT: Final = "asyncapi.yaml"
SCHEMAS: Final = "schemas"

contract_commands = typer.Typer()


@contract_commands.command()
def contract(
    folder: Annotated[
        Path, typer.Argument(help=f"Where the files are. It holds {PAGE}, which has the examples.")
    ] = Path("docs"),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit code 1 if a file is not current.")
    ] = False,
) -> None:
    """Write the contract for machines: asyncapi.yaml and schemas/*.json, from the models and the operations."""
    try:
        page = (folder / PAGE).read_text(encoding="utf-8")
        written = contract_files(page, metadata.version(DISTRIBUTION))
        differing = [name for name in sorted({*written, *_found(folder)}) if _read(folder / name) != written.get(name)]
        if check and differing:
            for name in differing:
                err.print_line(f"{folder / name} is not current")
            fail(Exit.REFUSED, "run `export-runs contract` to write them anew")
        for name in differing:
            _write(folder / name, written.get(name))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        fail(Exit.REFUSED, f"{folder}: {error}")
    out.print_line(f"{counted(len(written), 'file is', 'files are')} current")


def contract_files(page: str, version: str) -> dict[str, str]:
    """The texts of the files, by their paths in the folder. `page` is docs/CONTRACT.md, which has the examples."""
    document = asyncapi_document(version, valid_examples(page))
    files = {DOCUMENT: yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)}
    for name, schema in schema_files().items():
        files[f"{SCHEMAS}/{name}.json"] = json.dumps(schema, indent=2) + "\n"
    return files


class _Dumper(yaml.SafeDumper):
    """Writes what is there twice in full twice, and texts of several lines as they are."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text_node)


def _found(folder: Path) -> list[str]:
    """The schemas that are there, with those of messages that are no longer in the contract."""
    return [str(path.relative_to(folder)) for path in (folder / SCHEMAS).glob("*.json")]


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _write(path: Path, text: str | None) -> None:
    if text is None:
        path.unlink()
        return
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
