"""Runs the benches in turn and ends with one table of all figures that have a goal.

    python -m bench                  as the results are made: about 25 minutes
    python -m bench --short          the same on a small scale, without writing results: about 4 minutes
    python -m bench decide reaction  only these

Nobody fails by a number: a machine may be busy. A bench that does not work fails.
"""

import argparse
import subprocess
import sys
from typing import Final

from bench import addresses, conntrack, decide, reaction, sync
from bench.record import HEADER, Figure, render_table

BENCHES: Final = {
    "addresses": addresses.main,
    "conntrack": conntrack.main,
    "decide": decide.main,
    "reaction": reaction.main,
    "sync": sync.main,
}
SHORT: Final = {
    "addresses": ("--addresses", "1000", "--six", "300", "--rounds", "3", "--trial"),
    "conntrack": ("--flows", "5000", "--usage", "10000", "--rounds", "3", "--trial"),
    "decide": ("--services", "2000", "--times", "300", "--trial"),
    "reaction": ("--rounds", "3", "--outage", "10", "--trial"),
    "sync": ("--services", "1000", "--slices", "2000", "--nodes", "500", "--runs", "1", "--trial"),
}


def main() -> int:
    """Run them; `pipe` compares us with another program, has ratios instead of goals, and a table of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHES)}, pipe; default: all")
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args()
    names = options.names or [*BENCHES, "pipe"]
    if unknown := set(names) - {*BENCHES, "pipe"}:
        parser.error(f"there is no bench {', '.join(sorted(unknown))}")
    figures: list[Figure] = []
    for name, bench in BENCHES.items():
        if name in names:
            print(f"== bench/{name}.py", flush=True)
            figures += bench(SHORT[name] if options.short else ())
    code = 0
    if "pipe" in names:
        print("== bench/pipe.py", flush=True)
        code = subprocess.run([sys.executable, "-m", "bench.pipe"], check=False).returncode
    judged = [figure.cells() for figure in figures if figure.goal is not None]
    if judged:
        print("", "Figures with a goal", "", render_table([HEADER, *judged]), sep="\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
