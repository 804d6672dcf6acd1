"""Starts a control plane by hand and keeps it until Ctrl-C: `python -m tests.controlplane` from the repository's root.

With `build` as its argument it only builds the binaries.
"""

import signal
import sys
import time

from littlelb.testing.netns import unavailable
from tests.controlplane import build
from tests.controlplane.cluster import ControlPlane


def main(arguments: list[str]) -> int:
    """Build, start, print the kubeconfig, wait for a signal."""
    if arguments == ["build"]:
        return build.main()
    if reason := unavailable():
        print(reason, file=sys.stderr)  # noqa: T201 - a command line speaks
        return 1
    try:
        binaries = build.ensure(lambda line: print(line, file=sys.stderr, flush=True))  # noqa: T201
    except build.BuildError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    begun = time.monotonic()
    with ControlPlane(binaries) as plane:
        print(f"# ready after {time.monotonic() - begun:.1f} s; logs in {plane.logs}; Ctrl-C ends it")  # noqa: T201
        print(f"export KUBECONFIG={plane.admin.kubeconfig}", flush=True)  # noqa: T201
        # Blocked only now: the programs would inherit the mask and not end when they are told to.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
