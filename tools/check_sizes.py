"""Checks the limits that keep this tree readable: lines of modules and functions, methods of classes, modules of rooms.

Complexity and the number of arguments are ruff's duty. Read with `ast`, nothing is imported. A limit that is passed
fails the check; median and p90 are shown beside their aims, so that a slow drift is seen before it hurts.
"""

import ast
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

MODULE_LINES = 350
TEST_MODULE_LINES = 700
"""Twice as much: all unit tests of one module stand in one file, because tests mirror the source."""
FUNCTION_LINES = 60
PUBLIC_METHODS = 12
ROOM_MODULES = 13
AIM_MEDIAN, AIM_P90 = 8, 30
ROOMS = "src/littlelb"
ROOTS = ("src", "tools", "bench", "examples", "tests")
"""Below ROOMS every folder is a room; the other roots have the limits of modules, functions and classes only."""


@dataclass(frozen=True, slots=True)
class Block:
    """A function or class: `name` is dotted (`Store.upsert`), `size` is lines or public methods."""

    name: str
    line: int
    size: int


@dataclass(frozen=True, slots=True)
class Module:
    """What was measured in one file."""

    path: str
    lines: int
    functions: tuple[Block, ...]
    classes: tuple[Block, ...]


def _walk(node: ast.AST, prefix: str, functions: list[Block], classes: list[Block]) -> None:
    """Collect functions and classes with dotted names; a nested function counts by itself and in its outer one."""
    for child in ast.iter_child_nodes(node):
        name = prefix
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{prefix}{child.name}."
            functions.append(Block(name[:-1], child.lineno, (child.end_lineno or child.lineno) - child.lineno + 1))
        elif isinstance(child, ast.ClassDef):
            name = f"{prefix}{child.name}."
            classes.append(Block(name[:-1], child.lineno, len(_public_methods(child))))
        _walk(child, name, functions, classes)


def _public_methods(node: ast.ClassDef) -> set[str]:
    """Names, not definitions: a property with its setter, or overloads, are one."""
    return {
        child.name
        for child in node.body
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_")
    }


def parse_module(path: str, text: str) -> Module:
    """Measure one module from its text."""
    functions: list[Block] = []
    classes: list[Block] = []
    _walk(ast.parse(text, path), "", functions, classes)
    return Module(path, len(text.splitlines()), tuple(functions), tuple(classes))


def diff_limits(module: Module) -> list[str]:
    """Say which limits this module passes, one line each."""
    found: list[str] = []
    most = TEST_MODULE_LINES if module.path.startswith("tests/") else MODULE_LINES
    if module.lines > most:
        found.append(f"{module.path}: {module.lines} lines, at most {most}")
    found += [
        f"{module.path}:{block.line}: {block.name} has {block.size} lines, at most {FUNCTION_LINES}"
        for block in module.functions
        if block.size > FUNCTION_LINES
    ]
    found += [
        f"{module.path}:{block.line}: class {block.name} has {block.size} public methods, at most {PUBLIC_METHODS}"
        for block in module.classes
        if block.size > PUBLIC_METHODS and not block.name.split(".")[-1].startswith("Test")
    ]
    return found


def diff_rooms(paths: Iterable[str]) -> list[str]:
    """Say which folders below ROOMS hold too many modules (`__init__.py` is not counted)."""
    rooms: dict[str, int] = {}
    for path in paths:
        room, _, name = path.rpartition("/")
        if room.startswith(ROOMS) and name != "__init__.py":
            rooms[room] = rooms.get(room, 0) + 1
    return [f"{room}: {size} modules, at most {ROOM_MODULES}" for room, size in rooms.items() if size > ROOM_MODULES]


def select_quantile(sizes: Sequence[int], percent: int) -> int:
    """Nearest-rank quantile; 0 of nothing."""
    if not sizes:
        return 0
    return sorted(sizes)[max(0, -(-len(sizes) * percent // 100) - 1)]


def render_summary(root: str, modules: Sequence[Module]) -> str:
    """One line for one root: how large its modules and functions are."""
    lines = [module.lines for module in modules]
    sizes = [block.size for module in modules for block in module.functions]
    median, p90 = select_quantile(sizes, 50), select_quantile(sizes, 90)
    over = "" if median <= AIM_MEDIAN and p90 <= AIM_P90 else f"  (aim: {AIM_MEDIAN} and {AIM_P90})"
    return (
        f"{root:<9} {len(modules):>4} modules, median {select_quantile(lines, 50):>3}, "
        f"longest {max(lines, default=0):>3} lines;  {len(sizes):>4} functions, median {median:>2}, "
        f"p90 {p90:>2}, longest {max(sizes, default=0):>2}{over}"
    )


def read_modules(top: Path, root: str) -> list[Module]:
    """Read every Python file below `top/root`."""
    files = sorted((top / root).rglob("*.py"))
    return [parse_module(file.relative_to(top).as_posix(), file.read_text(encoding="utf-8")) for file in files]


def main(top: Path) -> int:
    """Check the tree at `top`; 0 when every limit holds."""
    failures: list[str] = []
    for root in ROOTS:
        modules = read_modules(top, root)
        if modules:
            print(render_summary(root, modules))
        failures += [line for module in modules for line in diff_limits(module)]
        failures += diff_rooms(module.path for module in modules)
    for line in failures:
        print(f"FAIL {line}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent.parent))
