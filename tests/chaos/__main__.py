"""`python -m tests.chaos`: run a campaign and print what it found. The exit code is 1 if it found a violation, and 2 if
there was no campaign.
"""

import argparse
import asyncio
import logging
import math
import random
import shutil
import sys
import tempfile
from pathlib import Path

from local.processes import ServiceError
from tests.chaos.campaign import Options, Report, run
from tests.chaos.cluster_faults import ClusterFaults
from tests.chaos.faults import Faults
from tests.chaos.system import PLANTS

DEFAULT_FAULTS = 60
FAULTS_PER_S_MAX = 5
"""No campaign makes more faults than this, so that a schedule with as many is long enough for its duration."""


def main() -> int:
    """Run a campaign. Returns the exit code."""
    arguments = _arguments()
    directory = arguments.directory or Path(tempfile.mkdtemp(prefix="export-runs-chaos-"))
    directory.mkdir(parents=True, exist_ok=True)
    defaults = Options(seed=arguments.seed, directory=directory)
    faults_max = math.ceil(FAULTS_PER_S_MAX * (arguments.duration_s or 0))
    faults = arguments.faults or faults_max or DEFAULT_FAULTS
    options = Options(
        seed=arguments.seed,
        directory=directory,
        faults=faults,
        duration_s=arguments.duration_s,
        rate=arguments.rate or defaults.rate,
        pair_share=defaults.pair_share if arguments.pair_share is None else arguments.pair_share,
        longest_fault_s=arguments.longest_fault_s or defaults.longest_fault_s,
        has_pgbouncer=arguments.pgbouncer,
        is_cluster=arguments.cluster,
        malformed_frames=not arguments.no_malformed_frames,
        only=tuple(arguments.only),
        plant=arguments.plant,
    )
    print(f"seed {options.seed}, ledger and logs in {directory}", flush=True)
    # aiormq logs each connection that breaks, and here they break on purpose.
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)
    try:
        report = asyncio.run(run(options))
    except ServiceError as problem:
        print(problem, file=sys.stderr)
        return 2
    print(text_of(report))
    if not report.failures and not arguments.directory:
        shutil.rmtree(directory)
    return 1 if report.failures else 0


def text_of(report: Report) -> str:
    """A report as text."""
    figures = {
        "duration": f"{report.duration_s:.0f} s",
        "events": f"{report.events}, and {report.duplicates_and_retries} duplicates and retries",
        "poison messages": report.poison,
        "requests of the guard": report.guard,
        "memory of a worker": report.worker_memory,
        **{name: value for name, value in report.verdict.figures.items() if name != "faults"},
        "faults": sum(report.verdict.figures["faults"].values()),
    }
    lines = [f"{name}: {value}" for name, value in figures.items()]
    lines += [f"  {count} x {kind}" for kind, count in report.verdict.figures["faults"].items()]
    lines += [
        f"{kind}: {len(report.verdict.violations.get(kind, []))}"
        for kind in dict.fromkeys([*VIOLATION_KINDS, *report.verdict.violations])
    ]
    lines += [f"VIOLATION {failure}" for failure in report.failures]
    return "\n".join([*lines, f"{len(report.failures)} violations" if report.failures else "no violation"])


VIOLATION_KINDS = (
    "lost",
    "doubled",
    "wrong in the store",
    "wrong reply",
    "unanswered in calm",
    "waited for another's trouble",
    "acknowledged without the standby",
    "idle worker in calm",
    "bad request unanswered",
    "unanswered though only the database failed",
    "late or second reply in calm",
    "double export missing",
    "double export wrong",
    "alert lost",
    "alert wrong",
    "reversal undone",
    "reversal lost",
    "grant after a reversal lost",
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
    parser.add_argument("--duration-s", type=float, help="make no new fault after this many seconds")
    parser.add_argument("--rate", type=float, help="events per second")
    parser.add_argument("--pair-share", type=float, help="the share of faults that come in a pair, 0 to 1")
    parser.add_argument("--longest-fault-s", type=float, help="how long a fault may last, in seconds")
    parser.add_argument("--no-malformed-frames", action="store_true", help="publish only well-formed frames")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        choices=sorted({**Faults.kinds, **ClusterFaults.kinds}),
        metavar="KIND",
        help="make only these kinds",
    )
    parser.add_argument("--pgbouncer", action="store_true", help="put a pgbouncer before the database")
    parser.add_argument("--cluster", action="store_true", help="three nodes of the broker, and a standby to promote")
    parser.add_argument("--plant", choices=sorted(PLANTS), help="run workers that have this bug")
    parser.add_argument("--directory", type=Path, help="the folder for the ledger and the logs; it is kept")
    arguments = parser.parse_args()
    if not arguments.cluster and (kinds := [kind for kind in arguments.only if kind in ClusterFaults.kinds]):
        parser.error(f"--only {kinds[0]!r} needs --cluster")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
