"""The two worlds."""

from littlelb.core.model import Forward
from littlelb.core.state import Decision
from tests.worlds import frontend, ip


def test_decision_names_each_address_once() -> None:
    """Two ports on one address are one address, in the order of the request."""
    value = Forward(service="default/web", backends=())
    ports = (frontend("203.0.113.9"), frontend("203.0.113.7", 1), frontend("203.0.113.9", 2))
    decision = Decision("default/web", "u", forwards=tuple((port, value) for port in ports))
    assert decision.addresses == (ip("203.0.113.9"), ip("203.0.113.7"))
