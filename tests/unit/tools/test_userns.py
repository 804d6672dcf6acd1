"""Tests of tools/userns.py: which setting forbids user namespaces, and what is said of it."""

from pathlib import Path

import pytest

from tools.userns import SETTINGS, read_settings, select_forbidding


@pytest.mark.parametrize("name", SETTINGS)
def test_the_setting_that_forbids_is_named_with_its_remedy(name: str) -> None:
    """One line holds the name, the value found and the command that allows it."""
    forbids, allows = SETTINGS[name]
    (line,) = select_forbidding({name: forbids})
    assert line == f"{name} is {forbids}, which forbids it; to allow it: sudo sysctl -w {name}={allows}"


def test_settings_that_allow_are_not_named() -> None:
    """Nor are those that this kernel does not have."""
    assert select_forbidding({"user.max_user_namespaces": "96365"}) == []
    assert select_forbidding({}) == []


def test_only_settings_that_exist_are_read(tmp_path: Path) -> None:
    """Two of the three exist on some distributions only."""
    (tmp_path / "user").mkdir()
    (tmp_path / "user/max_user_namespaces").write_text("0\n")
    assert read_settings(tmp_path) == {"user.max_user_namespaces": "0"}
