"""The demo: shows in half a minute, with real packets between network namespaces, what littlelb does with a Service.

Each step changes a manifest, waits for what should follow, and says what it saw: answers that the client got over TCP,
addresses that are (or are no longer) on the balancer's device, and the daemon's own status. A step whose consequence
does not come ends the demo with exit code 1 and the daemon's log.
"""

import argparse
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import FrameType

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from littlelb.core.shown.status import ServiceState
from tools.demo_stage import LOADBALANCER, TOP, Stage, StepFailed, wait_for
from tools.userns import PREFIX, read_prefix

FIRST, SECOND, SHARED = "203.0.113.10", "203.0.113.20", "192.0.2.2"
RIVAL = """\
# Asks for the address that demo/web holds.
apiVersion: v1
kind: Service
metadata: {name: rival, namespace: demo}
spec:
  type: LoadBalancer
  loadBalancerIP: 203.0.113.20
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: rival-1, namespace: demo, labels: {kubernetes.io/service-name: rival}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [198.51.100.12]}]
"""
PAUSE_SECONDS = 3
"""Between two steps, at a terminal only: for reading, nothing waits on it."""
console = Console(highlight=False)


def title(number: int, text: str) -> None:
    """Begin a step."""
    console.print(f"\n[bold]{number}. {escape(text)}[/bold]")


def fact(text: str) -> None:
    """Something that was just seen to be so."""
    console.print(f"   [green]seen[/green]  {escape(text)}", soft_wrap=True)


def edit(name: str, changes: Sequence[str]) -> None:
    """Show what was changed in which file."""
    console.print(f"   [cyan]edit[/cyan]  services/{name}")
    for line in changes:
        console.print(f"         {escape(line)}")


MOST_REQUESTS = 40
"""So many in a row do not miss one of two backends by chance: once in 500 thousand million times."""


def count_answers(stage: Stage, address: str, port: int, requests: int = 10) -> Counter[str]:
    """Who answered, and how often; requests without an answer count under the empty text."""
    return Counter(stage.request(address, port) for _ in range(requests))


def show_answers(stage: Stage, address: str, port: int, expected: set[str]) -> None:
    """Ten requests: all answered, by exactly the expected backends. They are drawn: for one without luck, ten more."""
    wait_for(f"{address} port {port} answers the client", lambda: bool(stage.request(address, port)))
    answers = count_answers(stage, address, port)
    while set(answers) < expected and answers.total() < MOST_REQUESTS:
        answers += count_answers(stage, address, port)
    if set(answers) != expected:
        raise StepFailed(f"http://{address}:{port}/ was answered by {dict(answers)}, not by {sorted(expected)}")
    shares = ", ".join(f"{name} {count} times" for name, count in sorted(answers.items()))
    fact(f"{answers.total()} requests of the client to {address} port {port}: {shares}")


def show_held(stage: Stage, address: str, *, held: bool) -> None:
    """The address is on the device of the balancer, or is gone from it."""
    text = "is on eth0 of the balancer" if held else "is gone from eth0 of the balancer"
    wait_for(f"{address} {text}", lambda: stage.held(address) is held)
    fact(f"{address} {text}")


PLANES = {
    "nft": "the kernel (nftables) carries the connections: no process of ours touches them",
    "pipe": "worker processes carry the connections",
}


def show_plane(stage: Stage, service: str) -> None:
    """Which plane carries a Service, and why it is not the kernel."""
    report = stage.report()
    if report is None:
        raise StepFailed("`loadbalancer status -o json` does not answer")
    plane = next(found.plane for found in report.services if found.key == service)
    why = f", because {report.daemon.no_nft}" if report.daemon.no_nft else ""
    fact(f"plane {plane}: {PLANES[plane]}{why}")


def refusal(stage: Stage, service: str) -> str:
    """Why this Service is refused, in the daemon's words; empty when it is not."""
    found = stage.status().get(service)
    if found is None or found.state is not ServiceState.REFUSED:
        return ""
    return "; ".join(reason.message for reason in found.reasons)


def show_table(stage: Stage) -> None:
    """What the daemon says of each Service."""
    table = Table("Service", "Addresses", "Ports", "Plane", "Backends", "State", box=None, padding=(0, 1, 0, 1))
    for found in stage.status().values():
        ports = ", ".join(dict.fromkeys(f"{port.port}/{port.protocol}" for port in found.ports))
        backends = f"{found.backends_up} of {found.backends_total} up"
        table.add_row(found.key, ", ".join(found.addresses) or "-", ports, found.plane or "-", backends, found.state)
    if not table.row_count:
        raise StepFailed("`loadbalancer status -o json` lists no Service")
    console.print(table)


def step_start(stage: Stage) -> None:
    """Daemon up: both Services answer."""
    title(1, "The daemon starts and finds two Services in the folder")
    stage.start_daemon()
    wait_for("the daemon serves demo/web", lambda: stage.alive() and bool(stage.request(FIRST, 80)), 20)
    wait_for("the daemon serves demo/api", lambda: bool(stage.request(SHARED, 8000)))
    show_table(stage)
    show_held(stage, FIRST, held=True)
    show_answers(stage, FIRST, 80, {"backend-1", "backend-2"})
    show_answers(stage, SHARED, 8000, {"backend-2"})
    show_plane(stage, "demo/web")


def step_port(stage: Stage) -> None:
    """A second port of the same Service."""
    title(2, "A port is added to demo/web")
    if stage.request(FIRST, 8081):
        raise StepFailed("port 8081 answers before anybody asked for it")
    fact(f"{FIRST} port 8081 does not answer so far")
    edit(
        "web.yaml", ["+ {name: extra, port: 8081}  in the Service", "+ {name: extra, port: 8080}  in its EndpointSlice"]
    )
    text = stage.read("web.yaml")
    text = text.replace("  ports:\n    - name: http", "  ports:\n    - {name: extra, port: 8081}\n    - name: http", 1)
    text = text.replace("ports:\n  - name: http", "ports:\n  - {name: extra, port: 8080}\n  - name: http", 1)
    stage.write("web.yaml", text)
    show_answers(stage, FIRST, 8081, {"backend-1", "backend-2"})


def step_move(stage: Stage) -> None:
    """Another address for the same Service."""
    title(3, f"demo/web moves from {FIRST} to {SECOND}")
    edit("web.yaml", [f"- loadBalancerIP: {FIRST}", f"+ loadBalancerIP: {SECOND}"])
    stage.write("web.yaml", stage.read("web.yaml").replace(f"loadBalancerIP: {FIRST}", f"loadBalancerIP: {SECOND}"))
    show_answers(stage, SECOND, 80, {"backend-1", "backend-2"})
    show_held(stage, FIRST, held=False)
    if stage.request(FIRST, 80):
        raise StepFailed(f"{FIRST} still answers")
    fact(f"nobody answers at {FIRST} any more")


def step_conflict(stage: Stage) -> None:
    """Two Services, one address."""
    title(4, f"A second Service asks for {SECOND}, which demo/web holds")
    edit("rival.yaml", ["+ a new Service demo/rival", f"+ loadBalancerIP: {SECOND}"])
    stage.write("rival.yaml", RIVAL)
    wait_for("the status shows why demo/rival is refused", lambda: bool(refusal(stage, "demo/rival")))
    fact(f"demo/rival is refused: {refusal(stage, 'demo/rival')}")
    show_answers(stage, SECOND, 80, {"backend-1", "backend-2"})
    fact("so demo/web was not disturbed: demo/rival has backend-2 only")


def step_delete(stage: Stage) -> None:
    """The holder goes, the next one gets its turn; then that one goes too."""
    title(5, "demo/web is deleted, then demo/rival")
    edit("web.yaml", ["deleted"])
    (stage.manifests / "web.yaml").unlink()
    wait_for("demo/rival gets its turn", lambda: set(count_answers(stage, SECOND, 80, 4)) == {"backend-2"})
    fact("demo/rival got its turn by itself: only backend-2 answers now")
    edit("rival.yaml", ["deleted"])
    (stage.manifests / "rival.yaml").unlink()
    show_held(stage, SECOND, held=False)
    show_answers(stage, SHARED, 8000, {"backend-2"})


def step_stop(stage: Stage) -> None:
    """An orderly end takes everything away."""
    title(6, "The daemon is told to stop (SIGTERM)")
    code = stage.stop_daemon()
    if code:
        raise StepFailed(f"the daemon ended with exit code {code}")
    fact("exit code 0")
    if stage.request(SHARED, 8000) or not stage.held(SHARED):
        raise StepFailed(f"{SHARED} should be there, and nobody should answer on it")
    fact(f"nobody answers any more, and {SHARED}, which was the machine's own address, is still there")


def play(stage: Stage) -> None:
    """Everything as it was in the beginning, and how to play with it; until Ctrl-C."""
    stage.restore()
    wait_for("demo/web is back", lambda: bool(stage.request(FIRST, 80)))
    enter = "" if os.geteuid() == 0 and not os.environ.get("LITTLELB_DEMO_USERNS") else _enter_userns()
    inside = f"{enter}nsenter --net=/run/netns/{stage.lan.client.name}"
    console.print("\n[bold]It keeps running. In another terminal:[/bold]")
    for what, command in (
        ("ask as the client", f"{inside} curl http://{FIRST}/"),
        ("a shell on the client", f"{inside} bash"),
        ("a shell on the balancer", inside.replace(stage.lan.client.name, stage.lan.balancer.name) + " bash"),
        ("change a Service", f"edit the files in {stage.manifests}"),
        ("see the status", f"{LOADBALANCER} status --run-dir {stage.run}"),
        ("read the log", f"tail -f {stage.log}"),
    ):
        console.print(f"  {what:<24} {command}", soft_wrap=True)
    console.print("\nCtrl-C ends it and removes everything.")
    while stage.alive():
        time.sleep(0.2)


def _enter_userns() -> str:
    return f"nsenter --target {os.getpid()} --user --mount --preserve-credentials "


STEPS: tuple[Callable[[Stage], None], ...] = (step_start, step_port, step_move, step_conflict, step_delete)


def show(stage: Stage, *, keep: bool) -> int:
    """Run the steps; 0 when each did what it says."""
    started = time.monotonic()
    try:
        stage.start_backends()
        for step in STEPS:
            step(stage)
            time.sleep(PAUSE_SECONDS if console.is_terminal else 0)
        if keep:
            play(stage)
        step_stop(stage)
    except StepFailed as failed:
        console.print(f"\n[bold red]FAILED[/bold red] {escape(str(failed))}\n\nThe daemon's log ends with:")
        log = stage.log.read_text(encoding="utf-8", errors="replace") if stage.log.exists() else ""
        console.print(escape("\n".join(log.splitlines()[-40:])) or "  (it is empty)", soft_wrap=True)
        return 1
    console.print(f"\n[bold green]All of it happened as shown[/bold green], in {time.monotonic() - started:.0f} s.")
    return 0


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """Ctrl-C, also where a parent ignored it, SIGTERM and SIGHUP: clean up, then end."""
    raise KeyboardInterrupt


def main(arguments: Sequence[str]) -> int:
    """Run as root, or in a user namespace, or say which setting forbids that."""
    parser = argparse.ArgumentParser(prog="make demo", description="Show littlelb at work in network namespaces.")
    parser.add_argument("--keep", action="store_true", help="keep it running until Ctrl-C (make demo KEEP=1)")
    keep = parser.parse_args(arguments).keep
    prefix, obstacle = read_prefix()
    if obstacle:
        console.print(f"demo      {escape(obstacle)}\ndemo      or run it as root: sudo make demo", soft_wrap=True)
        return 1
    if prefix:
        os.environ["LITTLELB_DEMO_USERNS"] = "1"
        command = [*PREFIX, sys.executable, "-m", "tools.demo", *arguments]
        os.execvp(command[0], command)  # noqa: S606  (a fixed program, found on the PATH as its users do)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    console.print(
        "A client, a balancer and two backends, as network namespaces of this machine; all of it is temporary."
    )
    console.print(f"The Services are a copy of {TOP / 'examples/demo'}.", soft_wrap=True)
    try:
        with Stage() as stage:
            return show(stage, keep=keep)
    except KeyboardInterrupt:
        console.print("\nStopped; everything is removed.")
        return 0 if keep else 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
