"""Runs the benches in turn and ends with one table of all figures that have a goal.

    python -m bench                  as the results are made: about 70 minutes
    python -m bench --short          the same on a small scale, without writing results: about 6 minutes
    python -m bench decide reaction  only these

Nobody fails by a number: a machine may be busy. A bench that does not work fails.
"""

import argparse
import subprocess
import sys
from typing import Final

from bench import addresses, changes_under_load, conntrack, decide, programming, reaction, sync
from bench.record import HEADER, Figure, render_table

BENCHES: Final = {
    "addresses": addresses.main,
    "changes_under_load": changes_under_load.main,
    "conntrack": conntrack.main,
    "decide": decide.main,
    "programming": programming.main,
    "reaction": reaction.main,
    "sync": sync.main,
}
SHORT: Final = {
    "addresses": ("--addresses", "1000", "--six", "300", "--rounds", "3", "--trial"),
    "changes_under_load": ("--short",),
    "conntrack": ("--flows", "5000", "--usage", "10000", "--rounds", "3", "--trial"),
    "decide": ("--services", "2000", "--times", "300", "--trial"),
    "programming": ("--short",),
    "reaction": ("--rounds", "3", "--outage", "10", "--trial"),
    "sync": ("--services", "1000", "--slices", "2000", "--nodes", "500", "--runs", "1", "--trial"),
}
COMPARISONS: Final = {"dataplane": ("--short",), "pipe": ()}
"""They compare us with other programs, by ratios, and have tables of their own; here are the words of the short run."""


def main() -> int:
    """Run them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [*BENCHES, *COMPARISONS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; default: all")
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args()
    names = options.names or known
    if unknown := set(names) - set(known):
        parser.error(f"there is no bench {', '.join(sorted(unknown))}")
    figures: list[Figure] = []
    for name, bench in BENCHES.items():
        if name in names:
            print(f"== bench/{name}.py", flush=True)
            figures += bench(SHORT[name] if options.short else ())
    code = 0
    for name, short in COMPARISONS.items():
        if name in names:
            print(f"== bench/{name}.py", flush=True)
            words = [sys.executable, "-m", f"bench.{name}", *(short if options.short else ())]
            code = max(code, subprocess.run(words, check=False).returncode)
    judged = [figure.cells() for figure in figures if figure.goal is not None]
    if judged:
        print("", "Figures with a goal", "", render_table([HEADER, *judged]), sep="\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
