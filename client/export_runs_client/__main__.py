"""The command `export-runs-client`."""

import argparse
import asyncio
import logging
import os
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .connection import open_connection
from .delivery import deliver_left
from .spool import UnreadableRuns, spool_files

URL_VARIABLE: Final = "EXPORT_RUNS_AMQP_URL"
FLUSH_TIMEOUT_S: Final = 60.0


async def flush(folder: Path, url: str, timeout_s: float, user_id: str | None = None) -> int:
    """Report what processes that have died left in a spool; returns 0, or 1 if something is left."""
    left = False
    async with open_connection([url], "export-runs-client flush", user_id) as connection:
        for path in spool_files(folder):
            try:
                async with asyncio.timeout(timeout_s):
                    count = await deliver_left(connection, path)
            except TimeoutError:
                print(f"{path}: not everything is published: {connection.problem}", file=sys.stderr)
                left = True
            except (sqlite3.Error, UnreadableRuns) as error:
                print(f"{path}: cannot be read: {error}", file=sys.stderr)
                left = True
            else:
                print(f"{path}: in use by a process" if count is None else f"{path}: {count} published")
    return int(left)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    parser = argparse.ArgumentParser(prog="export-runs-client", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    text = "Report what processes that have died left in the spool. Exit code 0: nothing is left. 1: something is."
    command = commands.add_parser("flush", help="report what is left in the spool", description=text)
    command.add_argument("spool", type=Path, help="the folder of the spool")
    command.add_argument("--url", default=os.environ.get(URL_VARIABLE), help=f"RabbitMQ; without it, {URL_VARIABLE}")
    command.add_argument("--timeout-s", type=float, default=FLUSH_TIMEOUT_S, help="how long to try, for each file")
    command.add_argument("--user-id", help="the user of the URL, where the service wants events to name it")
    given = parser.parse_args(arguments)
    if not given.url:
        command.error(f"give --url, or set {URL_VARIABLE}")
    if not given.spool.is_dir():
        command.error(f"there is no folder {given.spool}")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)  # what it says is in our own lines
    try:
        return asyncio.run(flush(given.spool, given.url, given.timeout_s, given.user_id))
    except ValueError as error:
        command.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
