"""Fixtures of all unit tests."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def home() -> Iterator[Path]:
    """Make a folder of its own, whose path leaves room for the names of sockets: at most 107 bytes, says unix(7)."""
    with tempfile.TemporaryDirectory(prefix="llb-") as made:
        yield Path(made)
