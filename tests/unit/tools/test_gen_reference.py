"""Tests of tools/gen_reference.py: a table from settings, and the check that pages did not drift."""

from enum import StrEnum
from pathlib import Path

import pytest

from littlelb.goflags import Option
from tools.gen_reference import ANNOTATIONS, CONFIGURATION, main, names, render_default, render_row, select_unnamed


class Colour(StrEnum):
    """A made-up closed set."""

    RED = "red"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (True, "`true`"),
        (Colour.RED, "`red`"),
        (("127.0.0.1", 80), "`127.0.0.1:80`"),
        (None, "none"),
        ((), "none"),
        (5.0, "`5.0`"),
    ],
)
def test_defaults_are_shown_as_one_writes_them(value: object, shown: str) -> None:
    """Booleans in lower case, addresses with their port, `none` for nothing."""
    assert render_default(Option("made-up", "X", ""), value) == shown


def test_a_default_that_depends_on_the_machine_is_said_in_words() -> None:
    """The page must not change with the number of CPUs."""
    assert render_default(Option("pipe-workers", "N", ""), 3) == "one per CPU, at most 4"


def test_a_row_names_flag_environment_default_and_meaning() -> None:
    """Bars inside a cell are escaped; a boolean flag shows that its value may be left out."""
    row = render_row(Option("on-exit", "withdraw|keep", "what SIGTERM does"), Colour.RED)
    assert row == "| `--on-exit withdraw\\|keep` | `LITTLELB_ON_EXIT` | `red` | what SIGTERM does |\n"
    default = False
    assert render_row(Option("debug", "[=BOOL]", "more"), default).startswith("| `--debug[=BOOL]` | `DEBUG` | `false` ")


def test_names_must_stand_as_code() -> None:
    """A word inside another word does not count."""
    assert select_unnamed("`PortInUse` and NotPermitted", ["PortInUse", "NotPermitted"]) == ["NotPermitted"]


def test_drift_is_found_and_repaired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An old page fails the check; writing it anew, with a hand-written page that is complete, passes."""
    (tmp_path / CONFIGURATION).parent.mkdir(parents=True)
    (tmp_path / CONFIGURATION).write_text("old")
    (tmp_path / ANNOTATIONS).write_text(" ".join(f"`{name}`" for name in names() if name != "PortInUse"))
    assert main(["--check"], tmp_path) == 1
    said = capsys.readouterr().out
    assert f"FAIL {ANNOTATIONS}: does not name PortInUse" in said
    assert f"FAIL {CONFIGURATION}: does not match the settings; run `make docs`" in said
    assert main([], tmp_path) == 0
    (tmp_path / ANNOTATIONS).write_text(" ".join(f"`{name}`" for name in names()))
    assert main(["--check"], tmp_path) == 0
