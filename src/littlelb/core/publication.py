"""What a Service's owner reads, and what later phases must leave out when an earlier one failed.

`withhold` is the rule «an address that fails goes no further; others do»: it takes the failed parts out of the desired
state and puts the reason into the publication instead.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TypeAlias

from littlelb.core.immutable.layered import as_layered
from littlelb.core.model import Condition, Frontend, Ingress, Ip, Key, PortError, Protocol, Publication
from littlelb.core.plan import Failure, Severity
from littlelb.core.reasons import Reason
from littlelb.core.state import Decision, DesiredState

Failures: TypeAlias = Mapping[Frontend | Ip | Key, Failure]
"""Failed subjects: a frontend, an address, or a whole Service."""

SERVED = "littlelb.io/Served"
CLIENT_ADDRESS_KEPT = "littlelb.io/ClientAddressKept"
"""Only with policy Local, which is there for the client's address."""
PORTS_ERROR = "LoadBalancerPortsError"
"""core/v1 `LoadBalancerPortsError`."""
ERROR_PREFIX = "littlelb.io/"
MAX_MESSAGE = 1024


def failure_of(frontend: Frontend, service: Key, failures: Failures) -> Failure | None:
    """Find what keeps a frontend from being served, if anything does."""
    return failures.get(frontend) or failures.get(frontend.address) or failures.get(service)


def compute_publication(decision: Decision, failures: Failures) -> Publication:
    """Say where the Service is served and what is wrong; kept addresses are named only while one asked for fails."""
    problems = _problems(decision, failures)
    served = [f for f, _ in decision.forwards if failure_of(f, decision.service, failures) is None]
    addresses = list(dict.fromkeys(frontend.address for frontend in served))
    if not problems:
        addresses = [address for address in addresses if address not in decision.kept] or addresses
    ingress = tuple(_ingress(address, served, problems, decision) for address in addresses)
    texts = tuple(entry.ip for entry in ingress)
    return Publication(
        uid=decision.uid,
        ingress=ingress,
        conditions=(*_client_address(decision.client_address), *_conditions(texts, problems)),
        external_ips=texts if decision.external_ips else (),
    )


def _problems(decision: Decision, failures: Failures) -> dict[Frontend | None, tuple[str, str]]:
    """Everything asked for that is not so: frontend (None: the request as a whole) → reason, message."""
    problems: dict[Frontend | None, tuple[str, str]] = {}
    for refusal in decision.refusals:
        problems.setdefault(refusal.frontend, (refusal.reason, refusal.message))
    for frontend, _ in decision.forwards:
        failure = failure_of(frontend, decision.service, failures)
        if failure is not None:
            problems[frontend] = (failure.reason, failure.message)
    return problems


def _ingress(
    address: Ip,
    served: list[Frontend],
    problems: Mapping[Frontend | None, tuple[str, str]],
    decision: Decision,
) -> Ingress:
    """One address, with an entry for every port where one of them fails."""
    good = {(frontend.protocol, frontend.port) for frontend in served if frontend.address == address}
    if all(port in good for port in decision.ports):
        return Ingress(ip=str(address), ip_mode=decision.ip_mode)
    ports = tuple(
        PortError(number, protocol, "" if (protocol, number) in good else _error(address, protocol, number, problems))
        for protocol, number in dict.fromkeys(decision.ports)
    )
    return Ingress(ip=str(address), ip_mode=decision.ip_mode, ports=ports)


def _error(address: Ip, protocol: Protocol, port: int, problems: Mapping[Frontend | None, tuple[str, str]]) -> str:
    """Name the error of one port in the form that the API validates: a qualified CamelCase word."""
    reason, _ = problems.get(Frontend(address, protocol, port), (Reason.FAILED.value, ""))
    return f"{ERROR_PREFIX}{reason}"


def _client_address(lost: str | None) -> tuple[Condition, ...]:
    """Say whether all backends see the client's address, to those who asked for it."""
    if lost is None:
        return ()
    if lost:
        return (Condition(CLIENT_ADDRESS_KEPT, "False", Reason.CLIENT_ADDRESS_LOST, lost[:MAX_MESSAGE]),)
    return (Condition(CLIENT_ADDRESS_KEPT, "True", "Kept", "every backend sees the client's address"),)


def _conditions(
    addresses: tuple[str, ...], problems: Mapping[Frontend | None, tuple[str, str]]
) -> tuple[Condition, ...]:
    """One condition that says it all, and the standard one for ports."""
    if not problems:
        return (Condition(SERVED, "True", "Served", f"served on {', '.join(addresses)}"),)
    reason, _ = next(iter(problems.values()))
    messages = "; ".join(dict.fromkeys(message for _, message in problems.values()))
    where = f"served on {', '.join(addresses)}, but " if addresses else "not served: "
    served = Condition(SERVED, "False", reason, f"{where}{messages}"[:MAX_MESSAGE])
    ports = [(f, problem) for f, problem in problems.items() if f is not None and not f.last_port]
    if not ports or not addresses:
        return (served,)
    words = "; ".join(dict.fromkeys(message for _, (_, message) in ports))
    return served, Condition(PORTS_ERROR, "True", ports[0][1][0], words[:MAX_MESSAGE])


def withhold(
    state: DesiredState, failures: Failures, shown: Mapping[Key, Publication] = MappingProxyType({})
) -> DesiredState:
    """Take out of the later phases what failed in an earlier one, and publish why.

    What only waits (`Severity.WAITING`) is nothing to tell: its Service shows what it showed before (`shown`), if it
    showed anything; else it has no publication yet.
    """
    if not failures:
        return state
    affected = _affected(state, failures)
    publications: dict[Key, Publication] = {}
    silent: set[Key] = set()
    lost: set[Frontend] = set()
    for key in affected:
        decision = state.decisions[key]
        if not _waits(decision, failures):
            publications[key] = compute_publication(decision, failures)
        elif key in shown and shown[key].uid == decision.uid:
            publications[key] = shown[key]
        else:
            silent.add(key)
        lost.update(f for f, _ in decision.forwards if failure_of(f, key, failures) is not None)
    gone = [address for address in {f.address for f in lost} if not _has_another(address, lost, state)]
    return replace(
        state,
        forwards=as_layered(state.forwards).changed({}, lost),
        placements=as_layered(state.placements).changed({}, gone),
        announcements=as_layered(state.announcements).changed({}, gone),
        publications=as_layered(state.publications).changed(publications, silent),
        withheld=frozenset(affected),
    )


def _has_another(address: Ip, lost: set[Frontend], state: DesiredState) -> bool:
    """Is anything left on this address, of whatever Service?"""
    keys = state.served_on(address)
    return any(f.address == address and f not in lost for key in keys for f, _ in state.decisions[key].forwards)


def _waits(decision: Decision, failures: Failures) -> bool:
    """Is something of it under way, so that soon there will be something else to tell?"""
    found = (failure_of(frontend, decision.service, failures) for frontend, _ in decision.forwards)
    return any(failure is not None and failure.severity is Severity.WAITING for failure in found)


def _affected(state: DesiredState, failures: Failures) -> set[Key]:
    """Find the Services that a failure concerns."""
    affected: set[Key] = set()
    for subject in failures:
        match subject:
            case str():
                affected.update([subject] if subject in state.decisions else [])
            case Frontend():
                forward = state.forwards.get(subject)
                affected.update([forward.service] if forward is not None else [])
            case _:
                affected.update(state.served_on(subject))
    return affected
