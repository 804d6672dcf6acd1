"""Tests of tools/check_sizes.py on made-up trees."""

from pathlib import Path

import pytest

from tools.check_sizes import diff_limits, diff_rooms, main, parse_module, render_summary, select_quantile


def function(name: str, lines: int, indent: str = "") -> str:
    """The text of a function of so many lines."""
    return "\n".join([f"{indent}def {name}(self):", *(f"{indent}    {n}" for n in range(lines - 1))]) + "\n"


def test_the_largest_allowed_pass() -> None:
    """350 lines, a function of 60 and a class of 12 public methods are within the limits."""
    methods = "class Store:\n" + "".join(function(f"f{n}", 2, "    ") for n in range(12))
    text = function("long", 60) + methods
    text += "\n" * (350 - len(text.splitlines()))
    module = parse_module("src/littlelb/core/a.py", text)
    assert module.lines == 350
    assert diff_limits(module) == []


def test_each_limit_is_named_with_its_place() -> None:
    """One more of anything fails, and the line says where, how much and how much is allowed."""
    text = function("long", 61) + "class Store:\n" + "".join(function(f"f{n}", 2, "    ") for n in range(13))
    text += "\n" * (351 - len(text.splitlines()))
    assert diff_limits(parse_module("src/littlelb/core/a.py", text)) == [
        "src/littlelb/core/a.py: 351 lines, at most 350",
        "src/littlelb/core/a.py:1: long has 61 lines, at most 60",
        "src/littlelb/core/a.py:62: class Store has 13 public methods, at most 12",
    ]


def test_a_test_module_may_have_twice_as_many_lines() -> None:
    """All unit tests of a module stand in one file."""
    assert diff_limits(parse_module("tests/unit/test_a.py", 700 * "\n")) == []
    assert diff_limits(parse_module("tests/unit/test_a.py", 701 * "\n")) == [
        "tests/unit/test_a.py: 701 lines, at most 700"
    ]


def test_private_methods_and_setters_are_not_counted() -> None:
    """A property with its setter is one public method, and underscores are private."""
    text = "class A:\n" + "".join(function(f"_f{n}", 2, "    ") for n in range(20)) + 2 * function("size", 2, "    ")
    (found,) = parse_module("a.py", text).classes
    assert (found.name, found.size) == ("A", 1)


def test_nested_functions_and_methods_have_dotted_names() -> None:
    """A function inside a method is measured by itself and named by its path."""
    text = "class A:\n    async def f(self):\n        def g():\n            pass\n        return g\n"
    assert [(block.name, block.size) for block in parse_module("a.py", text).functions] == [("A.f", 4), ("A.f.g", 2)]


def test_functions_behind_a_condition_are_found() -> None:
    """A definition below an `if` is measured like any other."""
    assert [b.name for b in parse_module("a.py", "if True:\n    def f():\n        pass\n").functions] == ["f"]


def test_a_test_class_may_have_many_tests() -> None:
    """The limit of methods is for the program: a class of tests is a list."""
    text = "class TestAll:\n" + "".join(function(f"test_{n}", 2, "    ") for n in range(20))
    assert diff_limits(parse_module("tests/unit/test_a.py", text)) == []


def test_a_room_holds_thirteen_modules() -> None:
    """The fourteenth fails; `__init__.py` and rooms inside a room are not counted."""
    room = "src/littlelb/kube"
    thirteen = [f"{room}/__init__.py", f"{room}/inner/x.py", *(f"{room}/m{n}.py" for n in range(13))]
    assert diff_rooms(thirteen) == []
    assert diff_rooms([*thirteen, f"{room}/one_more.py"]) == [f"{room}: 14 modules, at most 13"]
    assert diff_rooms(f"tests/unit/core/test_{n}.py" for n in range(50)) == []


@pytest.mark.parametrize(("percent", "size"), [(50, 5), (90, 9), (100, 10)])
def test_quantiles_are_nearest_rank(percent: int, size: int) -> None:
    """Of 1 to 10 the median is 5 and p90 is 9."""
    assert select_quantile(list(range(10, 0, -1)), percent) == size


def test_of_nothing_the_quantile_is_zero() -> None:
    """An empty root has no sizes."""
    assert select_quantile([], 50) == 0


def test_the_summary_shows_the_aims_only_when_missed() -> None:
    """Median and p90 within the aims need no remark."""
    assert "aim" not in render_summary("src", [parse_module("a.py", function("f", 8))])
    assert "(aim: 8 and 30)" in render_summary("src", [parse_module("a.py", function("f", 9))])


def test_a_tree_on_disk_fails_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is 1 with one long function below src, and 0 once it is gone."""
    module = tmp_path / "src/littlelb/core/a.py"
    module.parent.mkdir(parents=True)
    module.write_text(function("long", 61))
    assert main(tmp_path) == 1
    assert "FAIL src/littlelb/core/a.py:1: long has 61 lines, at most 60" in capsys.readouterr().out
    module.write_text(function("short", 5))
    assert main(tmp_path) == 0
    assert "FAIL" not in capsys.readouterr().out
