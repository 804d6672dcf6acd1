"""Tests of tools/check_mirror.py on made-up trees."""

from pathlib import Path

import pytest

from tools.check_mirror import Trees, compute_test_path, diff_mirror, main

PLAN, PLAN_TEST = "src/littlelb/core/plan.py", "tests/unit/core/test_plan.py"


def trees(sources: set[str], tests: set[str]) -> Trees:
    """A made-up tree."""
    return Trees(frozenset(sources), frozenset(tests))


@pytest.mark.parametrize(
    ("source", "test"),
    [
        (PLAN, PLAN_TEST),
        ("src/littlelb/cli.py", "tests/unit/test_cli.py"),
        ("src/littlelb/dataplane/pipe/flow.py", "tests/unit/dataplane/pipe/test_flow.py"),
        ("tools/check_sizes.py", "tests/unit/tools/test_check_sizes.py"),
    ],
)
def test_the_mirror_of_a_path(source: str, test: str) -> None:
    """A test module stands in the folder of the same name, with `test_` before its name."""
    assert compute_test_path(source) == test


def test_a_path_outside_of_the_trees_is_a_bug() -> None:
    """Nothing else is mirrored."""
    with pytest.raises(ValueError, match=r"bench/sync\.py"):
        compute_test_path("bench/sync.py")


def test_matching_trees_are_silent() -> None:
    """Modules with their tests, and `__init__.py` without one, are right."""
    assert diff_mirror(trees({PLAN, "src/littlelb/core/__init__.py"}, {PLAN_TEST}), {}) == []


def test_a_module_without_a_test_is_named_with_the_path_that_is_missing() -> None:
    """The line says which file to write."""
    assert diff_mirror(trees({PLAN}, set()), {}) == [f"{PLAN}: no {PLAN_TEST}"]


def test_a_test_without_a_module_is_named() -> None:
    """A test left over after a module moved is found; tests of other tiers mirror nothing."""
    assert diff_mirror(trees(set(), {PLAN_TEST, "tests/lab/test_arp.py"}), {}) == [
        f"{PLAN_TEST}: mirrors no module of the source"
    ]


def test_an_exception_needs_the_test_that_it_names() -> None:
    """A module covered by a lab test is right as long as that lab test exists."""
    covered = {PLAN: "tests/lab/test_plan.py"}
    assert diff_mirror(trees({PLAN}, {"tests/lab/test_plan.py"}), covered) == []
    assert diff_mirror(trees({PLAN}, set()), covered) == [
        f"{PLAN}: should be covered by tests/lab/test_plan.py, which does not exist"
    ]


def test_an_exception_does_not_outlive_its_reason() -> None:
    """A listed module that is gone, or that has a unit test by now, is to be taken off the list."""
    covered = {PLAN: "tests/lab/test_plan.py"}
    assert diff_mirror(trees(set(), {"tests/lab/test_plan.py"}), covered) == [
        f"{PLAN}: listed as covered by tests/lab/test_plan.py, but it does not exist"
    ]
    assert diff_mirror(trees({PLAN}, {PLAN_TEST, "tests/lab/test_plan.py"}), covered) == [
        f"{PLAN}: has its unit test now; take it off the list of exceptions"
    ]


def test_a_tree_on_disk_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is 1 and the missing test is printed."""
    (tmp_path / "src/littlelb/core").mkdir(parents=True)
    (tmp_path / PLAN).write_text("")
    assert main(tmp_path) == 1
    assert f"FAIL {PLAN}: no {PLAN_TEST}" in capsys.readouterr().out
