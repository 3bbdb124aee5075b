"""`python -m tests.chaos`: run a campaign, say what it found; exit code 1 if anything was violated."""

import argparse
import asyncio
import logging
import math
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos.campaign import Options, Report, run
from tests.chaos.world import PLANTS

DEFAULT_FAULTS = 60
FAULTS_A_SECOND_MAX = 5
"""No campaign gets through more of them, so a schedule for a duration is long enough."""


def main() -> int:
    """Run it."""
    arguments = _arguments()
    directory = arguments.directory or Path(tempfile.mkdtemp(prefix="export-runs-chaos-"))
    directory.mkdir(parents=True, exist_ok=True)
    defaults = Options(seed=arguments.seed, directory=directory)
    as_many_as_fit = math.ceil(FAULTS_A_SECOND_MAX * (arguments.duration_s or 0))
    faults = arguments.faults or as_many_as_fit or DEFAULT_FAULTS
    options = Options(
        seed=arguments.seed,
        directory=directory,
        faults=faults,
        duration_s=arguments.duration_s,
        rate=arguments.rate or defaults.rate,
        pair_share=defaults.pair_share if arguments.pair_share is None else arguments.pair_share,
        longest_fault_s=arguments.longest_fault_s or defaults.longest_fault_s,
        malformed_frames=not arguments.no_malformed_frames,
        plant=arguments.plant,
    )
    print(f"seed {options.seed}, ledger and logs in {directory}", flush=True)
    # It says of every connection that breaks that it broke.
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)
    report = asyncio.run(run(options))
    print(text_of(report))
    if not report.failures and not arguments.directory:
        shutil.rmtree(directory)
    return 1 if report.failures else 0


def text_of(report: Report) -> str:
    """A report as a person reads it."""
    facts = {
        "duration": f"{report.duration_s:.0f} s",
        "events": f"{report.events}, and {report.duplicates_and_retries} times again",
        "poison": report.poison,
        "requests of the guard": report.guard,
        "memory of a worker": report.worker_memory,
        **{name: value for name, value in report.verdict.facts.items() if name != "faults"},
        "faults": sum(report.verdict.facts["faults"].values()),
    }
    lines = [f"{name}: {value}" for name, value in facts.items()]
    lines += [f"  {count} x {kind}" for kind, count in report.verdict.facts["faults"].items()]
    lines += [
        f"{sort}: {len(report.verdict.found.get(sort, []))}" for sort in dict.fromkeys([*SORTS, *report.verdict.found])
    ]
    lines += [f"VIOLATION {failure}" for failure in report.failures]
    return "\n".join([*lines, f"{len(report.failures)} violations" if report.failures else "no violation"])


SORTS = (
    "lost",
    "doubled",
    "wrong in the store",
    "wrong reply",
    "unanswered in calm",
    "unanswered though only the database failed",
    "late or second reply in calm",
    "double export missing",
    "double export wrong",
    "alert lost",
    "alert wrong",
    "alerts out of order",
    "dead letter missing",
    "dead letter unexpected",
    "dead letter wrong",
    "no recovery",
    "slow recovery",
    "no calm",
    "deadlock",
    "wrong exit code",
)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--faults", type=int, help=f"how many faults (default {DEFAULT_FAULTS})")
    parser.add_argument("--duration-s", type=float, help="stop breaking things after so many seconds")
    parser.add_argument("--rate", type=float, help="events a second")
    parser.add_argument("--pair-share", type=float, help="how many of the faults begin as one of a pair, 0 to 1")
    parser.add_argument("--longest-fault-s", type=float, help="how long a fault may last")
    parser.add_argument("--no-malformed-frames", action="store_true", help="only frames that any client can send")
    parser.add_argument("--plant", choices=sorted(PLANTS), help="run workers that have this bug")
    parser.add_argument("--directory", type=Path, help="where the ledger and the logs are kept")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
