"""Show the results as a table in the terminal, as Markdown and as JSON."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import aio_pika
import aiormq
from rich.table import Table

from benchmarks.databases import connected
from benchmarks.processes import PEERS_PYTHON, peer_versions
from benchmarks.results import Goal, Pair, Side
from benchmarks.rows import Row
from local.services import Services

BEGIN: Final = "<!-- results begin -->"
END: Final = "<!-- results end -->"
COLUMNS: Final = ("what", "ours", "other", "ratio", "goal", "")

Results = Sequence[tuple[Row, Pair]]


@dataclass(frozen=True, slots=True)
class Setting:
    """The machine, the day and the versions of a run."""

    date: str
    machine: dict[str, str]
    versions: dict[str, str]

    def lines(self) -> list[str]:
        """The setting as two lines of text."""
        machine = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        versions = ", ".join(f"{name} {value}" for name, value in self.versions.items())
        return [f"{self.date}: {machine}.", f"{versions}."]


async def setting(services: Services) -> Setting:
    """Ask the machine and the services for the setting."""
    async with connected(services.database_url) as connection:
        postgresql = connection.get_server_version()
    async with await aio_pika.connect(services.amqp_url) as broker:
        assert broker.transport is not None
        underlay = broker.transport.connection
        assert isinstance(underlay, aiormq.Connection)
        rabbitmq = str(underlay.server_properties["version"])
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    peers = peer_versions("faststream", "nameko", "psycopg2-binary") if PEERS_PYTHON.exists() else {}
    return Setting(
        date=datetime.now(UTC).date().isoformat(),
        machine={
            "cores": str(os.cpu_count()),
            "memory": f"{memory_gib:.0f} GiB",
            "kernel": f"{platform.system()} {platform.release()}",
        },
        versions={
            "Python": platform.python_version(),
            "RabbitMQ": rabbitmq,
            "PostgreSQL": f"{postgresql.major}.{postgresql.minor}",
            "aio-pika": version("aio-pika"),
            "asyncpg": version("asyncpg"),
            **peers,
        },
    )


def cells(row: Row, pair: Pair) -> list[list[str]]:
    """The lines of a row: first the ratio, then other numbers that have a goal."""
    lines = [[row.what, side(pair.ours), side(pair.other), f"{number(pair.ratio)}x", *judgement(row.goal, pair.ratio)]]
    for extra in pair.extras:
        value = f"{number(extra.value)}{'' if extra.unit == 'x' else ' '}{extra.unit}"
        lines.append([extra.what, value, "", "", *judgement(extra.goal, extra.value)])
    return lines


def side(side: Side) -> str:
    """The median of a side, with its smallest and its largest sample."""
    spread = f"{number(min(side.samples))} to {number(max(side.samples))}"
    return f"{side.name}: {number(side.median)} {side.unit} ({spread})"


def judgement(goal: Goal | None, value: float) -> list[str]:
    """The goal, and whether the value reaches it."""
    if goal is None:
        return ["", "reported"]
    return [str(goal), "reached" if goal.reached(value) else "missed"]


def number(value: float) -> str:
    """A number with three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(results: Results, setting: Setting) -> Table:
    """The results as a table for the terminal."""
    table = Table(*COLUMNS, caption="\n".join(setting.lines()), caption_justify="left", show_lines=True)
    for row, pair in results:
        for line in cells(row, pair):
            colour = {"reached": "green", "missed": "red"}.get(line[-1], "")
            table.add_row(*line[:-1], f"[{colour}]{line[-1]}" if colour else line[-1])
    return table


def markdown(results: Results, setting: Setting) -> str:
    """The results as a table for benchmarks/README.md."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(line for row, pair in results for line in cells(row, pair))]
    return "\n".join([*setting.lines(), "", *(f"| {' | '.join(line)} |" for line in lines)])


def write_readme(path: Path, text: str) -> None:
    """Replace the text between the two markers of a file."""
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def write_json(path: Path, results: Results, setting: Setting, sizes: Mapping[str, float]) -> None:
    """Write the results, the setting and the sizes to a file, with all samples."""
    rows = {row.name: {"what": row.what, "ratio": pair.ratio, **asdict(pair)} for row, pair in results}
    document = {**asdict(setting), "sizes": dict(sizes), "rows": rows}
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
