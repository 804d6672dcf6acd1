"""Writes docs/reference/configuration.md from the settings themselves; with `--check` says whether it is still right.

The page of annotations and events is written by hand, because a sentence explains more than a name; the check demands
that it names every reason and every annotation that the program knows.
"""

import sys
from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import Path

from littlelb.config import Config
from littlelb.core.ipam import requests
from littlelb.core.reasons import Reason
from littlelb.goflags import OPTIONS, Option

TOP = Path(__file__).resolve().parent.parent
CONFIGURATION = "docs/reference/configuration.md"
ANNOTATIONS = "docs/reference/annotations-and-events.md"
DEPENDS = {"pipe_workers": "one per CPU, at most 4", "kubernetes": "true; false with --manifests", "linkdevice": "none"}
"""Defaults that depend on the machine or on other settings: field → how to say it."""
HEAD = """\
# Flags, environment and file

<!-- Written by tools/gen_reference.py from src/littlelb/goflags.py and src/littlelb/config.py: edit those. -->

A setting has one name: `--some-name` as a flag, `LITTLELB_SOME_NAME` in the environment (the four oldest have no
prefix), `some-name` in the YAML file of `--config`. A flag wins over the environment, the environment over the file,
the file over the default. `--x=v`, `--x v` and `-x v` mean the same; booleans are written as in Go (`1`, `t`, `true`,
`0`, `f`, `false` …) behind a `=`, or stand alone, or as `--no-some-name`. An empty variable counts as unset. Everything
that is wrong is listed at once, and the exit code is 2.

| flag | environment | default | meaning |
|---|---|---|---|
"""


def render_default(option: Option, value: object) -> str:
    """A default as one would write it."""
    if option.field in DEPENDS:
        return DEPENDS[option.field]
    match value:
        case bool():
            return f"`{str(value).lower()}`"
        case Enum():
            return f"`{value.value}`"
        case (str(host), int(port)):
            return f"`{host}:{port}`"
        case None | () | "":
            return "none"
        case _:
            return f"`{value}`"


def render_row(option: Option, value: object) -> str:
    """One line of the table; a bar would end a cell of Markdown."""
    flag = f"--{option.name}{option.metavar}" if option.boolean else f"--{option.name} {option.metavar}"
    cells = (f"`{flag}`", f"`{option.environment}`", render_default(option, value), option.help)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def render_configuration(options: Sequence[Option], defaults: object) -> str:
    """The whole page; `defaults` has a field for each option."""
    return HEAD + "".join(render_row(option, getattr(defaults, option.field)) for option in options)


def select_unnamed(page: str, names: Iterable[str]) -> list[str]:
    """Names that the page does not mention as `name`."""
    return sorted(name for name in names if f"`{name}`" not in page)


def names() -> list[str]:
    """What the hand-written page has to name."""
    annotations = {*requests.KNOWN_ANNOTATIONS, *requests.ADDRESS_ANNOTATIONS, *requests.POOL_ANNOTATIONS}
    return [*(reason.value for reason in Reason), *annotations, requests.RANGES_ANNOTATION]


def main(arguments: Sequence[str], top: Path = TOP) -> int:
    """Write the page, or only check both; 1 when something has drifted."""
    text = render_configuration(OPTIONS, Config())
    page = top / CONFIGURATION
    if "--check" not in arguments:
        page.write_text(text, encoding="utf-8")
        print(f"reference wrote {CONFIGURATION}")
        return 0
    failures = [f"{ANNOTATIONS}: does not name {name}" for name in select_unnamed(read(top / ANNOTATIONS), names())]
    if read(page) != text:
        failures.append(f"{CONFIGURATION}: does not match the settings; run `make docs`")
    for line in failures:
        print(f"FAIL {line}")
    if not failures:
        print("reference the pages match the program")
    return 1 if failures else 0


def read(page: Path) -> str:
    """The text of a page; empty when there is none."""
    return page.read_text(encoding="utf-8") if page.exists() else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
