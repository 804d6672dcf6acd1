"""A folder followed as it changes."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from littlelb.core.model import EndpointSlice, Node, Service
from littlelb.kube.folder import FolderSource, ManifestError, Pace
from littlelb.kube.folder.inotify import Inotify


def service(name: str, port: int = 80) -> str:
    """Write the manifest of a Service."""
    return f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n"


NODE = "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n"
SLICE = (
    "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n"
    "metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}\n"
)


class Store:
    """A sink that remembers."""

    def __init__(self) -> None:
        """Nothing is known, and nothing was listed."""
        self.known: dict[str, Service | EndpointSlice | Node] = {}
        self.upserts: list[str] = []
        self.lists = 0

    def upsert(self, item: Service | EndpointSlice | Node) -> None:
        """Remember."""
        self.known[item.key] = item
        self.upserts.append(item.key)

    def remove(self, key: str) -> None:
        """Forget."""
        self.known.pop(key, None)

    def retain(self, keys: frozenset[str]) -> None:
        """Forget all others."""
        self.known = {key: item for key, item in self.known.items() if key in keys}
        self.lists += 1

    def ports(self) -> dict[str, int]:
        """Name each Service's first port."""
        return {item.name: item.ports[0].port for item in self.known.values() if isinstance(item, Service)}


class World:
    """A folder, its source and three sinks."""

    def __init__(self, folder: Path, pace: Pace = Pace()) -> None:  # noqa: B008  (immutable)
        """Make the source; the folder is the test's."""
        self.folder = folder
        self.services, self.slices, self.nodes = Store(), Store(), Store()
        self.reports: list[tuple[ManifestError, ...]] = []
        self.source = FolderSource(folder, self.services, self.slices, self.nodes, self.reports.append, pace)

    def write(self, name: str, *documents: str) -> None:
        """Write a file in place."""
        (self.folder / name).write_text("---\n".join(documents))

    def load(self) -> dict[str, int]:
        """Load, and return the Services' ports."""
        self.source.load_once()
        return self.services.ports()

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Run the source meanwhile."""
        task = asyncio.create_task(self.source.run())
        try:
            yield
            assert not task.done()
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until it holds, at most 10 s."""
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.005)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Make an empty folder with a source on it."""
    folder = tmp_path / "manifests"
    folder.mkdir()
    return World(folder)


def test_all_kinds_reach_their_sinks(world: World) -> None:
    """One load is one complete list of each kind."""
    world.write("a.yaml", service("web"), SLICE, NODE)
    world.load()
    assert (list(world.services.known), list(world.slices.known), list(world.nodes.known)) == (
        ["default/web"],
        ["default/web-1"],
        ["n1"],
    )
    assert (world.services.lists, world.slices.lists, world.nodes.lists) == (1, 1, 1)
    assert world.source.errors == ()
    assert world.reports == []


def test_an_empty_folder_is_a_complete_list(world: World) -> None:
    """Nothing is there, and that is known."""
    assert world.load() == {}
    assert world.services.lists == 1


def test_only_what_changed_is_told(world: World) -> None:
    """Neighbours in the same file are not touched."""
    world.write("a.yaml", service("web"), service("api"))
    world.load()
    world.write("a.yaml", service("web"), service("api", 81))
    assert world.load() == {"web": 80, "api": 81}
    assert world.services.upserts == ["default/web", "default/api", "default/api"]


def test_a_deleted_file_takes_its_objects_along(world: World) -> None:
    """The others stay."""
    world.write("a.yaml", service("web"))
    world.write("b.yaml", service("api"))
    world.load()
    (world.folder / "a.yaml").unlink()
    assert world.load() == {"api": 80}


@pytest.mark.parametrize("text", ["", "# nothing\n", "a: [", service("web", 0), service("Web"), "\x00\x01"])
def test_a_file_with_an_error_keeps_its_last_sound_objects(world: World, text: str) -> None:
    """All of them, whatever the new text says; mended, the new ones count."""
    world.write("a.yaml", service("web"), service("api"))
    world.load()
    world.write("a.yaml", text, service("new"))
    if not text.strip("# nothig\n"):
        world.write("a.yaml", text)
    assert world.load() == {"web": 80, "api": 80}
    assert [error.file for error in world.source.errors] == ["a.yaml"]
    world.write("a.yaml", service("web", 81))
    assert world.load() == {"web": 81}
    assert world.source.errors == ()
    assert [len(errors) for errors in world.reports] == [1, 0]


def test_the_sound_documents_of_a_new_file_count(world: World) -> None:
    """Before there is a last sound version, one bad document does not cost its neighbours."""
    world.write("a.yaml", service("web"), service("Bad"), service("api"))
    assert world.load() == {"web": 80, "api": 80}
    assert [(error.document, error.line) for error in world.source.errors] == [(2, 8)]
    world.write("a.yaml", "a: [")
    assert world.load() == {"web": 80, "api": 80}


def test_the_first_file_by_name_keeps_an_object_that_two_define(world: World) -> None:
    """The error names both; when the first goes, the second has it."""
    world.write("b.yaml", service("web", 81))
    world.write("a.yaml", service("web", 80))
    assert world.load() == {"web": 80}
    (error,) = world.source.errors
    assert (error.file, error.reason) == ("b.yaml", "Service default/web is already defined in a.yaml, document 1")
    (world.folder / "a.yaml").unlink()
    assert world.load() == {"web": 81}
    assert world.source.errors == ()


def test_a_folder_that_cannot_be_listed_leaves_everything(world: World) -> None:
    """What works keeps working, and the error says why."""
    world.write("a.yaml", service("web"))
    world.load()
    world.folder.rename(world.folder.with_name("away"))
    assert world.load() == {"web": 80}
    assert "cannot be listed: No such file or directory" in world.source.errors[0].reason
    assert world.services.lists == 1


def test_a_missing_folder_is_not_a_complete_list(tmp_path: Path) -> None:
    """Nothing is known, so nothing may be taken away."""
    world = World(tmp_path / "missing")
    world.load()
    assert world.services.lists == 0
    assert len(world.source.errors) == 1


def test_an_unreadable_file_keeps_its_objects(world: World) -> None:
    """A pipe in its place is an error, not an end."""
    world.write("a.yaml", service("web"))
    world.load()
    (world.folder / "a.yaml").unlink()
    (world.folder / "a.yaml").mkdir()
    assert world.load() == {"web": 80}
    assert world.source.errors == (ManifestError("a.yaml", 0, 0, "not a regular file"),)


def test_too_many_files_are_an_error(tmp_path: Path) -> None:
    """The bound is on the folder, and nothing of it is read."""
    world = World(tmp_path, Pace(max_files=1))
    world.write("a.yaml", service("web"))
    world.write("b.yaml", service("api"))
    assert world.load() == {}
    assert "more than 1 manifests" in world.source.errors[0].reason


def test_kinds_that_no_balancer_reads_are_named_once(world: World) -> None:
    """A Deployment beside its Service gets one notice, and no second one when the file changes."""
    deployment = "apiVersion: apps/v1\nkind: Deployment\n"
    with capture_logs() as logs:
        world.write("a.yaml", service("web"), deployment)
        world.load()
        world.write("a.yaml", service("web", 81), deployment)
        assert world.load() == {"web": 81}
    assert [(line["event"], line["file"], line["kind"]) for line in logs] == [
        ("manifests.ignored", "a.yaml", "apps/v1 Deployment")
    ]


def test_an_error_and_its_recovery_are_logged_once(world: World) -> None:
    """Not at every look."""
    with capture_logs() as logs:
        world.write("a.yaml", service("web", 0))
        world.load()
        world.load()
        world.write("a.yaml", service("web"))
        world.load()
        world.load()
    assert [line["event"] for line in logs] == ["manifests.error", "manifests.recovered"]
    assert (logs[0]["file"], logs[0]["document"], logs[0]["line"]) == ("a.yaml", 1, 4)


def test_a_settled_file_is_not_read_again(world: World) -> None:
    """Its stamp says that it is as it was."""
    world.write("a.yaml", service("web"))
    world.load()
    # What makes a stamp settled is the time of the last change, which nobody can set: so wait until it is past.
    changed = (world.folder / "a.yaml").stat().st_ctime
    while time.time() - changed < 1.01:
        time.sleep(0.05)
    world.load()
    assert world.load() == {"web": 80}
    assert world.services.upserts == ["default/web"]


def test_a_file_name_of_odd_bytes_is_shown_printable(world: World) -> None:
    """Neither a newline nor bytes that are no text get from a name into a log."""
    (world.folder / "a\n\udcff.yaml").write_text("a: [")
    (world.folder / "b\n.yaml").mkdir()
    world.load()
    assert [error.file for error in world.source.errors] == ["a\\n\\udcff.yaml", "b\\n.yaml"]


def test_errors_of_files_stay_while_the_folder_is_away(world: World) -> None:
    """They are not mended by that."""
    world.write("a.yaml", "a: [")
    world.load()
    world.folder.rename(world.folder.with_name("away"))
    world.load()
    assert [error.file for error in world.source.errors] == [str(world.folder), "a.yaml"]


def test_the_demos_manifests_are_sound() -> None:
    """What a newcomer starts with has no error."""
    world = World(Path(__file__).parents[4] / "examples" / "demo")
    world.load()
    assert world.source.errors == ()
    assert world.services.known
    assert {piece.service_key for piece in world.slices.known.values() if isinstance(piece, EndpointSlice)} == set(
        world.services.known
    )


async def test_a_file_written_is_followed(world: World) -> None:
    """Written in place, then deleted."""
    async with world.following():
        await world.until(lambda: world.services.lists > 0)
        world.write("a.yaml", service("web"))
        await world.until(lambda: world.services.ports() == {"web": 80})
        (world.folder / "a.yaml").unlink()
        await world.until(lambda: world.services.ports() == {})


async def test_an_editors_rename_and_replace_is_followed(world: World) -> None:
    """Vim writes a new file and renames it over the old one; the backup is no manifest."""
    world.write("a.yaml", service("web"))
    async with world.following():
        await world.until(lambda: world.services.ports() == {"web": 80})
        for port in (81, 82, 83):
            (world.folder / "a.yaml").rename(world.folder / "a.yaml~")
            world.write(".a.yaml.tmp", service("web", port))
            (world.folder / ".a.yaml.tmp").rename(world.folder / "a.yaml")
            await world.until(lambda port=port: world.services.ports() == {"web": port})  # type: ignore[misc]
    assert world.reports == []


async def test_a_swap_of_configmap_links_is_followed(world: World) -> None:
    """As the kubelet does it: a new directory, and `..data` renamed onto it."""
    for version, port in (("..v1", 80), ("..v2", 81)):
        (world.folder / version).mkdir()
        (world.folder / version / "a.yaml").write_text(service("web", port))
    (world.folder / "..data").symlink_to("..v1")
    (world.folder / "a.yaml").symlink_to("..data/a.yaml")
    async with world.following():
        await world.until(lambda: world.services.ports() == {"web": 80})
        (world.folder / "..data_tmp").symlink_to("..v2")
        (world.folder / "..data_tmp").rename(world.folder / "..data")
        shutil.rmtree(world.folder / "..v1")
        await world.until(lambda: world.services.ports() == {"web": 81})


async def test_a_link_to_a_file_elsewhere_is_followed(world: World, tmp_path: Path) -> None:
    """A change of the file at the end of the link shows in its own directory."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "web").write_text(service("web"))
    (world.folder / "a.yaml").symlink_to(elsewhere / "web")
    async with world.following():
        await world.until(lambda: world.services.ports() == {"web": 80})
        (elsewhere / "new").write_text(service("web", 81))
        (elsewhere / "new").rename(elsewhere / "web")
        await world.until(lambda: world.services.ports() == {"web": 81})


async def test_a_folder_removed_and_made_again_is_followed(tmp_path: Path) -> None:
    """Meanwhile everything stays; afterwards the new folder counts."""
    (tmp_path / "manifests").mkdir()
    world = World(tmp_path / "manifests", Pace(poll_seconds=0.02))
    world.write("a.yaml", service("web"))
    async with world.following():
        await world.until(lambda: world.services.ports() == {"web": 80})
        world.folder.rename(world.folder.with_name("away"))
        await world.until(lambda: len(world.source.errors) == 1)
        assert world.services.ports() == {"web": 80}
        world.folder.mkdir()
        world.write("b.yaml", service("api"))
        await world.until(lambda: world.services.ports() == {"api": 80})
        assert world.source.errors == ()
        world.write("b.yaml", service("api", 81))
        await world.until(lambda: world.services.ports() == {"api": 81})


async def test_without_inotify_the_folder_is_looked_at_again_and_again(tmp_path: Path) -> None:
    """At a limit of the kernel it polls."""

    def refuse() -> Inotify:
        raise OSError(24, "Too many open files", "inotify_init1")

    world = World(tmp_path, Pace(open_inotify=refuse, poll_seconds=0.02))
    async with world.following():
        await world.until(lambda: world.services.lists > 0)
        world.write("a.yaml", service("web"))
        await world.until(lambda: world.services.ports() == {"web": 80})


async def test_a_quiet_folder_is_not_looked_at(world: World) -> None:
    """No busy loop: nothing happens while nothing changes."""
    async with world.following():
        await world.until(lambda: world.services.lists > 0)
        await asyncio.sleep(0.3)
        assert world.services.lists <= 2
