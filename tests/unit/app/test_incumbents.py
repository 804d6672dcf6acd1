"""Who holds what at the start of a daemon, told by what workers serve and by the state file."""

from ipaddress import ip_address

from littlelb.app.incumbents import select_incumbents
from littlelb.core.model import Backend, Forward, Frontend, Grant, Protocol
from littlelb.dataplane.unsettled import UNSETTLED

WEB = Frontend(ip_address("203.0.113.10"), Protocol.TCP, 80)
SECURE = Frontend(ip_address("203.0.113.10"), Protocol.TCP, 443)
OTHER = Frontend(ip_address("203.0.113.11"), Protocol.TCP, 80)


def forward(service: str) -> Forward:
    """Serve a Service by one backend."""
    return Forward(service=service, backends=(Backend(ip_address("10.1.0.1"), 8080),))


def test_what_is_served_is_held_though_no_file_says_so() -> None:
    """After a lost state file, a Service holds what the workers serve for it, from now on."""
    found = select_incumbents({}, {WEB: forward("demo/web"), SECURE: forward("demo/web")}, 100.0)
    assert found == {"demo/web": Grant(frozenset({WEB, SECURE}), 100.0)}


def test_the_file_tells_since_when() -> None:
    """A Service that the state file knows has held its address since the time that the file names, borrowed or not."""
    borrowed = frozenset({WEB.address})
    known = {"demo/web": Grant(frozenset({WEB}), 7.0, borrowed)}
    found = select_incumbents(known, {WEB: forward("demo/web"), SECURE: forward("demo/web")}, 100.0)
    assert found == {"demo/web": Grant(frozenset({WEB, SECURE}), 7.0, borrowed)}


def test_what_is_known_already_is_not_told_again() -> None:
    """A grant that the file and the workers agree on is left as it is, and so is one that only the file knows."""
    known = {"demo/web": Grant(frozenset({WEB}), 7.0), "demo/other": Grant(frozenset({OTHER}), 8.0)}
    assert select_incumbents(known, {WEB: forward("demo/web")}, 100.0) == {}


def test_a_frontend_on_which_workers_disagree_is_nobodys() -> None:
    """What cannot be read from the workers gives nobody a claim."""
    assert select_incumbents({}, {WEB: UNSETTLED}, 100.0) == {}
