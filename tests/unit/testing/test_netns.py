"""What of the namespaces can be judged without making one."""

import pytest

from littlelb.testing.netns import unavailable


def test_missing_iproute2_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the command `ip` the reason says what to install."""
    monkeypatch.setenv("PATH", "/nonexistent")
    assert unavailable() == "the command `ip` is missing: install iproute2"
