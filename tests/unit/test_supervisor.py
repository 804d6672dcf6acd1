"""What the supervisor decides: how long to wait, and what to supervise. Its processes are in tests/lab."""

import pytest

from littlelb.supervisor import Backoff, is_daemon


def test_the_wait_doubles_up_to_its_bound_and_starts_afresh_after_a_healthy_life() -> None:
    """A crash loop slows down; one crash after a day is answered at once."""
    backoff = Backoff(first=1, most=5, healthy=60)
    assert [backoff.after(0.1) for _ in range(5)] == [1, 2, 4, 5, 5]
    assert [backoff.after(lived) for lived in (61, 0.1)] == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], True),
        (["--linkdevice=eth0"], True),
        (["-linkdevice", "eth0"], True),
        (["run", "--manifests", "x"], True),
        (["status"], False),
        (["plan", "-o", "json"], False),
        (["--help"], False),
        (["run", "-h"], False),
    ],
)
def test_only_the_daemon_is_supervised(arguments: list[str], *, expected: bool) -> None:
    """`status` and its like answer once and end; started again for ever they would be of no use."""
    assert is_daemon(arguments) is expected
