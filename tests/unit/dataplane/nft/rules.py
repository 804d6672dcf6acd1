"""What the tests of the kernel plane's elements share: frontends, forwards, and Hypothesis strategies of them."""

from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

from hypothesis import strategies as st

from littlelb.core.model import Backend, Forward, Frontend, Plane, Protocol

VIP4, VIP6 = ip_address("203.0.113.7"), ip_address("2001:db8:0:113::7")
WEB = Frontend(VIP4, Protocol.TCP, 80)
WEB6 = Frontend(VIP6, Protocol.TCP, 80)
DNS = Frontend(VIP4, Protocol.UDP, 53)
RANGE = Frontend(VIP4, Protocol.UDP, 5000, 5999)


def backends(*numbers: int, version: int = 4, port: int = 8080, **more: Any) -> tuple[Backend, ...]:
    """10.1.0.N or 2001:db8:1::N."""
    return tuple(Backend(ip_address(_backend(number, version)), port, **more) for number in numbers)


def _backend(number: int, version: int) -> str:
    return f"10.1.{number >> 8}.{number & 255}" if version == 4 else f"2001:db8:1::{number:x}"


def forward(*served: Backend, **more: Any) -> Forward:
    """A rule for the kernel plane."""
    return Forward(service="default/web", backends=served, plane=Plane.NFT, **more)


_NETWORKS4 = st.builds(
    lambda number, length: IPv4Network((number, length), strict=False), st.integers(0, 0xFFFFFFFF), st.integers(0, 32)
)
_NETWORKS6 = st.builds(
    lambda number, length: IPv6Network((number << 64, length), strict=False),
    st.integers(0, 2**64 - 1),
    st.integers(0, 64),
)

FRONTENDS = st.sampled_from([WEB, WEB6, DNS, RANGE, Frontend(VIP6, Protocol.UDP, 5000, 5999)])


@st.composite
def forwards(draw: st.DrawFn, frontend: Frontend) -> Forward:
    """Whatever may be asked of a frontend."""
    port = st.just(0) if frontend.last_port else st.integers(1, 65535)
    served = draw(
        st.lists(
            st.tuples(st.integers(1, 90), port, st.integers(1, 3), st.booleans()),
            max_size=6,
            unique_by=lambda item: item[:2],
        )
    )
    version = frontend.address.version
    return Forward(
        service="default/web",
        backends=tuple(
            Backend(ip_address(_backend(number, version)), at, weight, keeps) for number, at, weight, keeps in served
        ),
        plane=draw(st.sampled_from(Plane)),
        source_ranges=draw(st.none() | st.lists(_NETWORKS4 | _NETWORKS6, max_size=4).map(tuple)),
        affinity_seconds=draw(st.sampled_from([0, 60, 10_800])),
        from_link_only=draw(st.booleans()),
        held=draw(st.booleans()),
    )


def worlds() -> st.SearchStrategy[dict[Frontend, Forward]]:
    """Some frontends, each with what is asked of it."""
    several = st.lists(FRONTENDS, unique=True)
    return several.flatmap(lambda keys: st.fixed_dictionaries({key: forwards(key) for key in keys}))
