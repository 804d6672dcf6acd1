"""Checks that tests/unit mirrors the source: each module has its test module, and each test module its module.

A module whose behaviour shows only with real packets or processes may name, in COVERED, the test that covers it
instead; the file must exist, so an exception cannot outlive its reason.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TREES = {"src/littlelb": "tests/unit", "tools": "tests/unit/tools"}
"""Source tree → the tree of its tests."""

WITHOUT = {
    "__init__.py": "names a room and holds no behaviour",
    "__main__.py": "calls cli.main and nothing else",
}
"""File names that need no test, and why."""

COVERED = {
    "src/littlelb/app/clock.py": "tests/lab/test_demo.py",
    "src/littlelb/app/commands/cleanup.py": "tests/lab/test_stand_alone_commands.py",
    "src/littlelb/dataplane/nft/kernel.py": "tests/lab/test_nft_life.py",
    "src/littlelb/dataplane/nft/plane.py": "tests/lab/test_nft_plane.py",
    "tools/demo.py": "tests/lab/test_demo.py",
    "tools/demo_stage.py": "tests/lab/test_demo.py",
}
"""Modules tested by a test elsewhere: module → the file that covers it."""


@dataclass(frozen=True, slots=True)
class Trees:
    """Paths relative to the top of the repository, with slashes."""

    sources: frozenset[str]
    tests: frozenset[str]
    """All test files, of every tier."""


def compute_test_path(source: str, trees: Mapping[str, str] = TREES) -> str:
    """`src/littlelb/core/plan.py` → `tests/unit/core/test_plan.py`."""
    for root, mirror in trees.items():
        if source.startswith(f"{root}/"):
            room, _, name = source.removeprefix(f"{root}/").rpartition("/")
            return "/".join(part for part in (mirror, room, f"test_{name}") if part)
    raise ValueError(f"{source} is in none of {', '.join(trees)}")


def diff_mirror(trees: Trees, covered: Mapping[str, str] = COVERED) -> list[str]:
    """Say what is missing on either side, one line each."""
    found: list[str] = []
    expected = {
        compute_test_path(source): source for source in trees.sources if source.rpartition("/")[2] not in WITHOUT
    }
    for test, source in sorted(expected.items()):
        if test not in trees.tests and source not in covered:
            found.append(f"{source}: no {test}")
    unit = {test for test in trees.tests if test.startswith("tests/unit/")}
    found += [f"{test}: mirrors no module of the source" for test in sorted(unit - set(expected))]
    for source, test in covered.items():
        if source not in trees.sources:
            found.append(f"{source}: listed as covered by {test}, but it does not exist")
        elif test not in trees.tests:
            found.append(f"{source}: should be covered by {test}, which does not exist")
        elif compute_test_path(source) in trees.tests:
            found.append(f"{source}: has its unit test now; take it off the list of exceptions")
    return found


def read_trees(top: Path) -> Trees:
    """List the sources and tests below `top`."""
    return Trees(
        sources=frozenset(file.relative_to(top).as_posix() for root in TREES for file in (top / root).rglob("*.py")),
        tests=frozenset(file.relative_to(top).as_posix() for file in (top / "tests").rglob("test_*.py")),
    )


def main(top: Path) -> int:
    """Check the tree at `top`; 0 when both sides match."""
    trees = read_trees(top)
    failures = diff_mirror(trees)
    for line in failures:
        print(f"FAIL {line}")
    if not failures:
        print(f"mirror    {len(trees.sources)} modules have their tests; {len(COVERED)} of them outside of tests/unit")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent.parent))
