"""`python -m tests.bench`: prints a table and writes build/bench.json."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.bench import (
    assembler,
    audit,
    boot,
    check,
    fenced,
    mutants,
    native,
    startup,
    steps,
    timers,
    view,
)
from tests.bench.measure import machine, table, write

# Each has groups(scale), a list of what it compares.
SUBJECTS = {
    "timers": timers,
    "steps": steps,
    "check": check,
    "native": native,
    "assembler": assembler,
    "fenced": fenced,
    "startup": startup,
    "mutants": mutants,
    "audit": audit,
    "boot": boot,
    "view": view,
}


def main() -> None:
    """Measures the subjects asked for, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=", ".join(SUBJECTS))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--scale", type=float, default=1.0, help="of the work of one repeat")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), metavar="PATH")
    options = parser.parse_args()
    unknown = set(options.subjects) - SUBJECTS.keys()
    if unknown:
        parser.error(f"no such subject: {', '.join(sorted(unknown))}")
    chosen = options.subjects or list(SUBJECTS)
    groups = [group for name in chosen for group in SUBJECTS[name].groups(options.scale)]
    for group in groups:
        sys.stderr.write(f"{group.name} …\n")
        group.measure(options.repeats)
    sys.stdout.write(f"{machine()}\n\n{table(groups)}\n")
    write(groups, options.json)


if __name__ == "__main__":
    main()
