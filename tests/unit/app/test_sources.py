"""What is known of the API server before it is spoken to."""

import pytest

from littlelb.app.sources import resolve_server
from tests.worlds import ip


async def test_the_addresses_of_the_api_server_are_found() -> None:
    """A literal address is its own answer, of either family."""
    assert await resolve_server("https://192.0.2.1:6443") == {ip("192.0.2.1")}
    assert await resolve_server("https://[2001:db8::1]:6443/prefix") == {ip("2001:db8::1")}


@pytest.mark.parametrize(("server", "seconds"), [(f"https://{'a' * 70}.example", 2.0), ("https://192.0.2.1", 0.0)])
async def test_a_name_that_does_not_resolve_stops_no_start(server: str, seconds: float) -> None:
    """No name that DNS could have, or no answer in time: the start goes on, to serve the last known world."""
    assert await resolve_server(server, seconds) == frozenset()
