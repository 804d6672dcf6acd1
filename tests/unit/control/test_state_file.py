"""The last known world, on disk."""

from ipaddress import ip_network
from pathlib import Path

import msgspec
import pytest
import structlog

from littlelb.control.state_file import StateFile, decode_world, encode_pieces, encode_world
from littlelb.core.model import ServiceType
from tests.worlds import frontend, grant, node, piece, service, snapshot

WORLD = snapshot(
    service("web", "203.0.113.7", annotations={"littlelb.io/drain-seconds": "5"}),
    service("internal", type=ServiceType.CLUSTER_IP),
    service("leftover", type=ServiceType.CLUSTER_IP, has_finalizer=True),
    piece("web", ["10.1.0.11", "10.1.0.12"]),
    piece("internal"),
    node("n1", "198.51.100.11", labels={"zone": "a"}, pod_networks=(ip_network("10.1.0.0/24"),)),
)
GRANTS = {
    "default/web": grant(frontend("203.0.113.7", 80), frontend("2001:db8::7", 80)),
    "default/shared": grant(frontend("192.0.2.2", 80), borrowed=["192.0.2.2"]),
}


def test_what_is_written_is_read_again() -> None:
    """Services of ours, their slices, all nodes, and who holds what; nothing of other Services."""
    stored = decode_world(encode_world(WORLD, GRANTS, 12.0))
    assert stored.written == 12.0
    assert {one.key: one for one in stored.services} == {
        key: one for key, one in WORLD.services.items() if key != "default/internal"
    }
    assert [one.restore() for one in stored.slices] == list(WORLD.slices["default/web"])
    assert [one.restore() for one in stored.nodes] == list(WORLD.nodes.values())
    assert stored.granted() == GRANTS


def test_the_file_is_private_and_replaced_in_one_step(tmp_path: Path) -> None:
    """Made with its folder; no half-written file is ever in its place."""
    file = StateFile(tmp_path / "state")
    assert file.read() is None
    file.write(encode_world(WORLD, GRANTS, 1.0))
    file.write(encode_world(WORLD, {}, 2.0))
    (path,) = (tmp_path / "state").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    stored = file.read()
    assert stored is not None
    assert stored.written == 2.0


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x81\xa1a\x01", b"\xff" * 100])
def test_a_broken_file_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    """It is said, and the next write replaces it."""
    (tmp_path / "world.msgpack").write_bytes(content)
    with structlog.testing.capture_logs() as logs:
        assert StateFile(tmp_path).read() is None
    assert [entry["event"] for entry in logs] == ["state_file.unusable"]


def test_a_file_of_another_version_is_not_used() -> None:
    """Its meaning may be another one."""
    content = msgspec.msgpack.decode(encode_world(WORLD, GRANTS, 1.0))
    content["version"] = 99
    with pytest.raises(msgspec.ValidationError, match="version 99"):
        decode_world(msgspec.msgpack.encode(content))


def test_addresses_that_are_none_make_the_file_unusable(tmp_path: Path) -> None:
    """Somebody edited it: said at the start, not in the middle of an outage."""
    content = msgspec.msgpack.decode(encode_world(WORLD, GRANTS, 1.0))
    content["nodes"][0]["addresses"] = ["300.1.1.1"]
    (tmp_path / "world.msgpack").write_bytes(msgspec.msgpack.encode(content))
    assert StateFile(tmp_path).read() is None


def test_no_link_in_the_folder_is_followed(tmp_path: Path) -> None:
    """Root writes here: a link that somebody else could place must not lead the write elsewhere."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "world.new").symlink_to(victim)
    file = StateFile(tmp_path)
    file.write(encode_world(WORLD, GRANTS, 1.0))
    assert victim.read_text() == "precious"
    assert file.read() is None


def test_a_disk_that_cannot_be_written_is_said_once_and_harms_nothing(tmp_path: Path) -> None:
    """And once more when it works again."""
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    file = StateFile(blocked)
    with structlog.testing.capture_logs() as logs:
        file.write(b"x")
        file.write(b"x")
        blocked.unlink()
        file.write(b"x")
    assert [entry["event"] for entry in logs] == ["state_file.not_written", "state_file.written_again"]


def test_a_large_world_is_encoded_in_pieces() -> None:
    """None of them takes long, and together they are the file."""
    many = [service(f"s{number}", "203.0.113.7") for number in range(200)]
    world = snapshot(*many, *(piece(one.name) for one in many), node("n1", "198.51.100.11"))
    grants = {one.key: grant(frontend("203.0.113.7")) for one in many}
    pieces = list(encode_pieces(world, grants, 3.0))
    assert max(map(len, pieces)) < sum(map(len, pieces)) / 4
    stored = decode_world(b"".join(pieces))
    assert {one.key: one for one in stored.services} == world.services
    assert len(stored.slices) == 200
    assert stored.granted() == grants
