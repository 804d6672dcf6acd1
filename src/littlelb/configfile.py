"""Reads the settings file: a flat YAML mapping whose entries keep their line numbers, so that errors can name them."""

from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import yaml

from littlelb.core.shown.text import printable
from littlelb.goflags import OPTIONS

_SHOWN_BYTES = 80
_PATH_BYTES = 4096
"""PATH_MAX: a path is shown to its end, where the file's name is."""


class Given(NamedTuple):
    """What one source said about one setting, and how to name that source in an error."""

    value: object
    source: str


def show(value: object) -> str:
    """Quote a value for an error: escaped and shortened."""
    text = value if isinstance(value, str) else repr(value)
    return f"'{printable(text, _SHOWN_BYTES)}'"


def read_settings_file(path: Path) -> tuple[dict[str, Given], list[str]]:
    """Read the file: what it says, by field of Config; and everything that is wrong with it as a file."""
    shown = printable(str(path), _PATH_BYTES)
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        return {}, [_explain_file(shown, error)]
    if root is None:
        return {}, []
    if not isinstance(root, yaml.MappingNode):
        return {}, [f"{shown}:{root.start_mark.line + 1}: must be a mapping of settings, such as `linkdevice: eth0`"]
    return _read_settings(shown, root)


def _explain_file(shown: str, error: Exception) -> str:
    match error:
        case OSError():
            return f"{shown}: cannot be read: {error.strerror}"
        case UnicodeDecodeError():
            return f"{shown}: is not UTF-8"
        case RecursionError():
            return f"{shown}: is nested too deeply"
        case yaml.MarkedYAMLError(problem_mark=yaml.Mark(line=line)):
            return f"{shown}:{line + 1}: is not YAML: {printable(error.problem or str(error), 200)}"
        case _:
            return f"{shown}: is not YAML: {printable(str(error), 200)}"


def _read_settings(shown: str, root: yaml.MappingNode) -> tuple[dict[str, Given], list[str]]:
    names = {option.name: option.field for option in OPTIONS if option.name != "config"}
    values: dict[str, Given] = {}
    errors: list[str] = []
    loader = yaml.SafeLoader("")
    for key_node, value_node in root.value:
        where = f"{shown}:{key_node.start_mark.line + 1}"
        key = str(key_node.value)
        name = printable(key, _SHOWN_BYTES)
        if key not in names:
            near = get_close_matches(key, names, 1)
            errors.append(f"{where}: there is no setting {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        elif names[key] in values:
            errors.append(f"{where}: {name!r} was set before: {values[names[key]].source}")
        else:
            values[names[key]] = _construct(loader, value_node, f"{where}: {name}", errors)
    return values, errors


def _construct(loader: yaml.SafeLoader, node: yaml.Node, source: str, errors: list[str]) -> Given:
    """Build a plain value or a flat list: nothing that aliases could make larger than the file."""
    parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if not all(isinstance(part, yaml.ScalarNode) for part in parts):
        errors.append(f"{source}: must be a plain value or a list of plain values")
        return Given(None, source)
    try:
        return Given(loader.construct_object(node, deep=True), source)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that no calendar has
        errors.append(f"{source}: cannot be read: {printable(str(error), 200)}")
        return Given(None, source)
