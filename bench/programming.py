"""How long it takes until the kernel knows: cold load and single changes, beside kube-proxy's layout and kube-proxy.

    python -m bench.programming               1,000, 5,000 and 10,000 Services of 3 backends: about 15 minutes
    python -m bench.programming --full        the same, and 10,000 Services on the real API server: 20 minutes more
    python -m bench.programming --short       200 of everything, nothing is written: half a minute
    python -m bench.programming --only plane --sizes 30000 --theirs 0

plane   our plane alone, as the loop drives it; kube-proxy's ruleset by `nft -f -`, in turn, in a namespace beside it
loop    the daemon's way within one process: lines of a watch → decode → store → compute → plane → kernel
api     the real API server, the real daemon, the real kube-proxy: a slice is patched, and both kernels tell when
"""

import argparse
import logging
import shutil
import sys
from collections.abc import Sequence

import structlog

from bench import programming_api, programming_loop, programming_plane
from bench.programming_plane import Scale
from bench.record import Figure, report
from littlelb.testing.netns import unavailable
from tests.controlplane import build

PARTS = ("plane", "loop", "api")
SHORT = ("--sizes", "200", "--changes", "30", "--theirs", "5", "--loop", "200", "--api", "50", "--patches", "10")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 5_000, 10_000], help="Services, plane alone")
    parser.add_argument("--changes", type=int, default=300, help="changes of each kind, of ours")
    parser.add_argument("--theirs", type=int, default=20, help="of kube-proxy's layout; 0: without it")
    parser.add_argument("--loop", type=int, default=10_000, help="Services, whole loop")
    parser.add_argument("--api", type=int, default=1_000, help="Services, real API server")
    parser.add_argument("--patches", type=int, default=100, help="changes on the real API server")
    parser.add_argument("--only", choices=PARTS, action="append", help="several times for several")
    parser.add_argument("--full", action="store_true", help="10,000 Services on the real API server, too")
    parser.add_argument("--trial", action="store_true", help="write no result")
    parser.add_argument("--short", action="store_true", help="on a small scale; write no result")
    words = list(sys.argv[1:] if arguments is None else arguments)
    if "--short" in words:
        words = [*SHORT, "--trial", *words]
    return parser.parse_args(words)


def measure(options: argparse.Namespace) -> list[Figure]:
    """Part by part."""
    only = options.only or PARTS
    figures: list[Figure] = []
    if "plane" in only:
        for size in options.sizes:
            figures += programming_plane.run(Scale(size, options.changes, options.theirs))
            print(f"plane alone, {size:,} Services: done", flush=True)
    if "loop" in only:
        figures += programming_loop.run(options.loop, options.changes)
        print("whole loop: done", flush=True)
    if "api" in only:
        sizes = {options.api, 10_000} if options.full else {options.api}
        for size in sorted(sizes):
            figures += programming_api.run(size, options.patches)
    return figures


def main(arguments: Sequence[str] | None = None) -> list[Figure]:
    """Measure, print, and write the dated result."""
    options = parse(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    reason = "install nftables" if shutil.which("nft") is None else unavailable()
    if reason:
        print(f"SKIPPED bench/programming.py: {reason}")
        return []
    figures = measure(options)
    note = (
        "Goals are for p99 where there are many runs. The kernel write is one transaction: encoded, sent, carried out "
        "and acknowledged. CPU time leaves other programs of the machine out. For a new Service the kernel validates "
        "the table, walking over the elements of all verdict maps (perf: nft_rhash_walk, nft_setelem_validate); source "
        "ranges are intervals, of which removing one walks over all (nft_pipapo_remove). "
        "kube-proxy's layout is loaded and changed by `nft -f -`; with source ranges on more than "
        f"{programming_plane.THEIR_RANGED:,} Services it takes minutes to load and is left out. "
        f"On the real API server (Kubernetes {build.KUBERNETES_VERSION}) server, daemon and kube-proxy share the CPUs: "
        "the goal is held against the run without kube-proxy; "
        "the clock starts at the API server's answer, and the same change is watched on both sides. kube-proxy's "
        "minSyncPeriod is 1 s by default; 1 ms is the least that its configuration takes, for 0 means the default."
    )
    report("programming", "Programming the kernel", figures, [note], keep=not options.trial)
    return figures


if __name__ == "__main__":
    main()
