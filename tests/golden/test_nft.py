"""The whole skeleton, for people to read and for changes to be seen.

After a change that is meant: `.venv/bin/python -m tests.golden.test_nft`, look at the diff, and count up
`ruleset.LAYOUT`: a table of another layout is replaced at the next start.
"""

from pathlib import Path
from typing import Final

from littlelb.dataplane.nft.ruleset import render_skeleton

GOLDEN: Final = Path(__file__).with_name("nft") / "skeleton.nft"


def test_skeleton() -> None:
    """The text that is loaded is the one that was looked at."""
    assert render_skeleton() == GOLDEN.read_text(encoding="utf-8")


if __name__ == "__main__":
    GOLDEN.write_text(render_skeleton(), encoding="utf-8")
