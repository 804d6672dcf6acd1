"""Fixtures of all unit tests."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """Make a folder with a short name, for sockets: the path of one has at most 107 bytes, pytest's may have more."""
    with tempfile.TemporaryDirectory(prefix="llb-") as folder:
        yield Path(folder)
