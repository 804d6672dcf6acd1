"""What tests of the parts share: a folder with a short path, for sockets are made below it."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder of its own, whose path leaves room for the names of sockets (unix(7): 107 bytes)."""
    with tempfile.TemporaryDirectory(prefix="llb-") as made:
        yield Path(made)
