"""The file of changes: kept whole, and the first value of each setting remembered."""

from pathlib import Path

from structlog.testing import capture_logs

from littlelb.host.forwarding.record import Change, Record

FIRST = Change("eth0", 2, "net/ipv4/conf/eth0/forwarding", 0, 1)
OTHER = Change("eth1", 3, "net/ipv4/conf/eth1/forwarding", 0, 1)


def test_changes_outlive_the_process(tmp_path: Path) -> None:
    """Each is added; what one setting was before the first change counts; without any there is no file."""
    path = tmp_path / "run" / "forwarding.json"
    record = Record(path)
    assert record.read() == ()
    record.add(FIRST)
    record.add(OTHER)
    record.add(Change("eth0", 2, FIRST.key, 1, 1))
    assert Record(path).read() == (FIRST, OTHER)
    assert [entry.name for entry in path.parent.iterdir()] == ["forwarding.json"]
    record.write(())
    assert not path.exists()
    record.write(())


def test_a_device_that_was_made_again_is_another_one(tmp_path: Path) -> None:
    """It has settings of its own, though the name is the same."""
    record = Record(tmp_path / "forwarding.json")
    again = Change("eth0", 9, FIRST.key, 0, 1)
    record.add(FIRST)
    record.add(again)
    assert record.read() == (FIRST, again)


def test_a_file_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    """Nothing is put back then, and the log says why."""
    path = tmp_path / "forwarding.json"
    path.write_text("{")
    with capture_logs() as logs:
        assert Record(path).read() == ()
    assert [line["event"] for line in logs] == ["forwarding.record_unreadable"]
