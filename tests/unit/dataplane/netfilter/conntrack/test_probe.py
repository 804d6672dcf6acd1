"""The probe against kernels of several kinds: who is trusted, who is not, and that nothing is ever put at risk."""

import errno
from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest

from littlelb.core.errors import Permanent
from littlelb.core.model import Family, Protocol
from littlelb.dataplane.netfilter import wire
from littlelb.dataplane.netfilter.conntrack import flows as ct
from littlelb.dataplane.netfilter.conntrack.exchange import Render
from littlelb.dataplane.netfilter.conntrack.filters import FlowFilter
from littlelb.dataplane.netfilter.conntrack.flows import Flow
from littlelb.dataplane.netfilter.conntrack.probe import Support, supports_filtered_delete


@dataclass
class Kernel:
    """A table of flows that keeps to the rules of one kind of kernel."""

    filtered: bool = True
    """Linux 6.9 and later."""
    inverted: frozenset[int] = frozenset()
    """Families whose addresses are compared the wrong way round."""
    blind: bool = False
    """Overlooks the ports."""
    refuses: int = 0
    """Errno for every new flow."""
    port = 4711
    table: list[Flow] = field(default_factory=list)
    unmarked_deletions: int = 0

    def ask(self, render: Render) -> int:
        """Carry out one request."""
        (asked,) = wire.iterate_messages(render(wire.NLM_F_REQUEST, 1))
        found = asked.attributes()
        if asked.type == ct.CT_NEW:
            self.table += [] if self.refuses else [ct.parse_flow(asked.payload)]
            return self.refuses
        if asked.type == ct.CT_DELETE and ct.FILTER in found:
            return self._delete_filtered(asked.family, found)
        named = [flow for flow in self.table if ct._parse_tuple(found[ct.TUPLE_ORIG]) == (flow.protocol, flow.original)]
        if asked.type == ct.CT_DELETE:
            self.table = [flow for flow in self.table if flow not in named]
        return 0 if named else errno.ENOENT

    def _delete_filtered(self, family: int, found: dict[int, bytes]) -> int:
        self.unmarked_deletions += ct.MARK not in found or found.get(ct.MARK_MASK) != b"\xff" * 4
        if not self.filtered:
            return errno.EINVAL
        self.table = [flow for flow in self.table if not self._fits(flow, family, found)]
        return 0

    def _fits(self, flow: Flow, family: int, found: dict[int, bytes]) -> bool:
        right = family not in self.inverted
        for kind, one, end in ((ct.TUPLE_ORIG, flow.original, 1), (ct.TUPLE_REPLY, flow.reply, 0)):
            parts = wire.parse_attributes(found.get(kind, b""))
            address = one.destination if end else one.source
            port = one.destination_port if end else one.source_port
            asked = wire.parse_attributes(parts.get(ct.IP, b"")).values()
            if any((value == address.packed) is not right for value in asked):
                return False
            wanted = wire.parse_attributes(parts.get(ct.PROTO, b"")).get(ct.SOURCE_PORT + end)
            if wanted is not None and not self.blind and int.from_bytes(wanted) != port:
                return False
        return flow.mark == int.from_bytes(found[ct.MARK])


VIP = ip_address("203.0.113.10")
V4, V6 = frozenset({Family.IPV4}), frozenset({Family.IPV6})


@pytest.mark.parametrize(
    ("kernel", "trusted"),
    [
        (Kernel(), V4 | V6),
        (Kernel(inverted=frozenset({wire.NFPROTO_IPV6})), V4),
        (Kernel(inverted=frozenset({wire.NFPROTO_IPV4, wire.NFPROTO_IPV6})), frozenset()),
        (Kernel(filtered=False), frozenset()),
        (Kernel(blind=True), frozenset()),
        (Kernel(refuses=errno.EOPNOTSUPP), frozenset()),
    ],
    ids=["right", "IPv6 inverted", "both inverted", "before 6.9", "ports overlooked", "no zones"],
)
def test_who_is_trusted(kernel: Kernel, trusted: frozenset[Family]) -> None:
    """A family is trusted when what fits is deleted and what does not is spared; the probe leaves no flow behind."""
    assert supports_filtered_delete(kernel) == Support(trusted)
    assert kernel.table == []
    assert kernel.unmarked_deletions == 0, "every deletion of the probe asks for its own mark"


def test_no_right_is_permanent() -> None:
    """Without the right to change flows there is nothing to fall back to."""
    with pytest.raises(Permanent, match="CAP_NET_ADMIN"):
        supports_filtered_delete(Kernel(refuses=errno.EPERM))


def test_what_is_covered() -> None:
    """What every kernel knows needs no trust; parts of tuples need that of their family; no kernel knows ranges."""
    v4 = FlowFilter(family=Family.IPV4, protocol=None, mark=1, mark_mask=1)
    nobody, half = Support(), Support(V4)
    ports = FlowFilter(frontend=VIP, frontend_port=5000, frontend_last_port=5999, protocol=Protocol.UDP)
    assert not Support(V4 | V6).covers(ports)
    assert nobody.covers(v4)
    assert nobody.covers(FlowFilter(mark=1, mark_mask=1))
    for family in Family:
        asked = FlowFilter(frontend=ct.address(bytes(4 if family is Family.IPV4 else 16)))
        assert not nobody.covers(asked)
        assert half.covers(asked) is (family is Family.IPV4)
