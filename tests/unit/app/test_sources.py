"""Sources that are asked once: a folder, and an API server by pages."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from littlelb.app.sources import Folder, list_all, resolve_server
from littlelb.control.store import Store
from littlelb.core.errors import Permanent
from littlelb.core.model import HostFacts, Service
from littlelb.core.state import Settings
from littlelb.kube.client import SERVICES, Api, Page, Selection
from tests.worlds import service

SOUND = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: demo}
spec: {type: LoadBalancer, ports: [{port: 80}]}
"""


def store() -> Store:
    """A store that knows nothing."""
    return Store(Settings(stand_alone=True), HostFacts("eth0"), lambda: None)


async def test_a_folder_is_read_once(tmp_path: Path) -> None:
    """Its objects are known, its errors name file and place, and the store counts as listed."""
    known = store()
    (tmp_path / "web.yaml").write_text(SOUND)
    (tmp_path / "bad.yaml").write_text("kind: [")
    source = Folder(tmp_path, known)
    before = source.synced
    await source.list_once()
    assert (before, source.synced, source.connected) == (False, True, True)
    assert list(known.services.items) == ["demo/web"]
    (error,) = source.errors
    assert error.startswith("bad.yaml, document 1, line ")


async def test_a_folder_that_is_not_there_says_so(tmp_path: Path) -> None:
    """It is not connected, and nothing counts as listed."""
    source = Folder(tmp_path / "gone", store())
    await source.list_once()
    assert not source.connected
    assert not source.synced
    assert "cannot be listed" in source.errors[0]


@dataclass
class Pages:
    """An API server that has these pages."""

    pages: list[Page[Service]]
    asked: list[str] = field(default_factory=list)

    async def list_page(self, _what: Selection, _decode: Callable[[bytes], Page[Any]], token: str) -> Page[Service]:
        """Give the next page."""
        self.asked.append(token)
        if not self.pages:
            raise Permanent("list services: not permitted")
        return self.pages.pop(0)


def decode(_text: bytes) -> Page[Service]:
    """Never called: the double has decoded pages."""
    raise NotImplementedError


async def test_every_page_is_asked_for_and_what_is_gone_is_forgotten() -> None:
    """The token of a page names the next; an object of no page is forgotten at the end."""
    known = store()
    known.services.upsert(service("old"))
    api = Pages([Page((service("a"),), "7", "more"), Page((service("b"),), "7")])
    await list_all(cast("Api", api), Selection(SERVICES), decode, known.services)
    assert api.asked == ["", "more"]
    assert sorted(known.services.items) == ["default/a", "default/b"]


async def test_a_list_that_breaks_off_forgets_nothing() -> None:
    """What the API server refuses is raised as it is."""
    known = store()
    known.services.upsert(service("old"))
    with pytest.raises(Permanent):
        await list_all(
            cast("Api", Pages([Page((service("a"),), "7", "more")])), Selection(SERVICES), decode, known.services
        )
    assert "default/old" in known.services.items


@pytest.mark.parametrize(
    ("server", "found"),
    [
        ("https://192.0.2.5:6443", {"192.0.2.5"}),
        ("https://[2001:db8::5]:6443/prefix", {"2001:db8::5"}),
        ("https://", set()),
    ],
)
async def test_the_api_servers_address_is_known(server: str, found: set[str]) -> None:
    """No Service may have it; a literal address needs no resolver."""
    assert {str(address) for address in await resolve_server(server)} == found
