"""Reads YAML and JSON text into plain values, strictly and within bounds, and remembers on which line each one stands.

The parser is libyaml (PyYAML's CSafeLoader without its constructors: those make timestamps of texts, base-60 numbers of
IPv6 addresses, and raise whatever they like). Values are built here, from the JSON types only. An alias is expanded at
most to MAX_VALUES, so that a bomb of aliases is an error and not a hung process.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec
import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

MAX_DOCUMENTS = 10_000
MAX_VALUES = 250_000
"""In one file; in one document also when every alias is counted as often as it is used."""
MAX_DEPTH = 64
MAX_DIGITS = 64
MAX_REASON_CHARACTERS = 300

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
_TAG = "tag:yaml.org,2002:"
_TRUE = frozenset({"yes", "true", "on"})
_BOOLEANS = _TRUE | {"no", "false", "off"}


@dataclass(frozen=True, slots=True)
class ManifestError:
    """What is wrong in a folder, and where. Documents and lines count from 1; 0 means the file as a whole."""

    file: str
    document: int
    line: int
    reason: str

    def __str__(self) -> str:
        """`web.yaml, document 2, line 14: spec.ports is missing`."""
        place = [self.file, self.document and f"document {self.document}", self.line and f"line {self.line}"]
        return f"{', '.join(str(part) for part in place if part)}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file: its value, and the YAML nodes that it was built from, for line numbers."""

    number: int
    value: Json
    node: Node | None = None

    def line(self, *path: str | int) -> int:
        """Find the line of the value at a path, or of the nearest thing around it that exists; JSON files know none."""
        node = self.node
        if node is None:
            return 0
        for step in path:
            found = _step(node, step)
            if found is None:
                break
            node = found
        return int(node.start_mark.line) + 1


@dataclass(slots=True)
class Parsed:
    """Sound documents of a file, and what is wrong in the others."""

    documents: list[Document] = field(default_factory=list)
    errors: list[ManifestError] = field(default_factory=list)


class _Unfit(ValueError):
    """A node that cannot become a plain value."""

    def __init__(self, node: Node, reason: str) -> None:
        super().__init__(reason)
        self.line = int(node.start_mark.line) + 1


class _Loader(yaml.CSafeLoader):
    """libyaml's parser and composer, with fewer guesses about what a plain scalar means."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag.removeprefix(_TAG) in {"bool", "null", "merge"}]
    for first, found in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    f"{_TAG}int", re.compile(r"[-+]?(?:0x[0-9a-fA-F]+|0o?[0-7]+|0|[1-9][0-9]*)\Z"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))\Z"),
    list("-+.0123456789"),
)


def printable(text: str, limit: int = MAX_REASON_CHARACTERS) -> str:
    """Make one printable line of a stranger's text, of a length fit for a log and a table."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:limit])


def parse_file(name: str, text: bytes) -> Parsed:
    """Parse a whole file by the ending of its name. Never raises: what is wrong is in `errors`."""
    parsed = Parsed()
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError as why:
        line = text.count(b"\n", 0, why.start) + 1
        parsed.errors.append(ManifestError(name, 0, line, f"not UTF-8 text (byte {why.start})"))
        return parsed
    (_parse_json if name.endswith(".json") else _parse_yaml)(name, decoded, parsed)
    if not parsed.documents and not parsed.errors:
        parsed.errors.append(
            ManifestError(name, 0, 0, "no object in it; delete the file to remove the objects that it had")
        )
    return parsed


def _parse_json(name: str, text: str, parsed: Parsed) -> None:
    if not text.strip():
        return
    try:
        parsed.documents.append(Document(1, msgspec.json.decode(text)))
    except msgspec.DecodeError as why:
        parsed.errors.append(ManifestError(name, 1, 0, f"not JSON: {why}"))
    except RecursionError:
        parsed.errors.append(ManifestError(name, 1, 0, "nested too deeply"))


def _find_excess(text: str) -> tuple[int, int, str] | None:
    """Find where a text is too deep or too long: (document, line, reason).

    The composer is recursive C and would crash the process on depth, and makes an object for each value.
    """
    depth = number = values = 0
    try:
        for event in yaml.parse(text, Loader=_Loader):
            values += isinstance(event, yaml.NodeEvent)
            number += isinstance(event, yaml.DocumentStartEvent)
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH or values > MAX_VALUES:
                line = event.start_mark.line + 1 if event.start_mark else 0
                why = f"nested more than {MAX_DEPTH} deep" if depth > MAX_DEPTH else f"more than {MAX_VALUES} values"
                return number, line, why
    except yaml.YAMLError:
        pass  # the composer stops at the same place, and its error is reported
    return None


def _parse_yaml(name: str, text: str, parsed: Parsed) -> None:
    excess = _find_excess(text)
    if excess is not None:
        parsed.errors.append(ManifestError(name, *excess))
        return
    number = 0
    try:
        for number, node in enumerate(yaml.compose_all(text, Loader=_Loader), 1):
            if number > MAX_DOCUMENTS:
                parsed.errors.append(ManifestError(name, number, 0, f"more than {MAX_DOCUMENTS} documents"))
                return
            try:
                value = _Builder().build(node)
            except _Unfit as why:
                parsed.errors.append(ManifestError(name, number, why.line, str(why)))
                continue
            if value is not None:
                parsed.documents.append(Document(number, value, node))
    except yaml.YAMLError as why:
        # Where the text stops being YAML, nothing after it can be found.
        parsed.errors.append(ManifestError(name, number + 1, _line_of(why, text), _reason_of(why)))


def _line_of(why: yaml.YAMLError, text: str) -> int:
    if isinstance(why, yaml.MarkedYAMLError):
        mark = why.problem_mark or why.context_mark
        return mark.line + 1 if mark else 0
    position = getattr(why, "position", None)
    return text.count("\n", 0, position) + 1 if isinstance(position, int) else 0


def _reason_of(why: yaml.YAMLError) -> str:
    if isinstance(why, yaml.MarkedYAMLError):
        return f"not YAML: {', '.join(part for part in (why.context, why.problem) if part)}"
    character = getattr(why, "character", "")
    return f"not YAML: control character {character!r}" if character else f"not YAML: {why}".splitlines()[0]


def _step(node: Node, step: str | int) -> Node | None:
    """Find the child node."""
    if isinstance(node, MappingNode):
        return next((value for key, value in node.value if isinstance(key, ScalarNode) and key.value == step), None)
    if isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.value):
        child = node.value[step]
        return child if isinstance(child, Node) else None
    return None


class _Builder:
    """Builds the value of one document; nodes that are used twice (aliases) are built once and counted twice."""

    def __init__(self) -> None:
        self._built: dict[int, tuple[Json, int]] = {}
        self._open: set[int] = set()

    def build(self, node: Node) -> Json:
        """Build the value of a document."""
        return self._build(node)[0]

    def _build(self, node: Node) -> tuple[Json, int]:
        """Value, and how many values it holds when every alias is expanded."""
        if isinstance(node, ScalarNode):
            return _scalar(node), 1
        known = self._built.get(id(node))
        if known is not None:
            return known
        if id(node) in self._open:
            raise _Unfit(node, "an alias inside of what it refers to")
        self._open.add(id(node))
        value, size = self._sequence(node) if isinstance(node, SequenceNode) else self._mapping(node)
        self._open.discard(id(node))
        if size > MAX_VALUES:
            raise _Unfit(node, f"more than {MAX_VALUES} values, aliases counted as often as they are used")
        self._built[id(node)] = value, size
        return value, size

    def _sequence(self, node: SequenceNode) -> tuple[Json, int]:
        _expect(node, "seq")
        built = [self._build(child) for child in node.value]
        return [value for value, _ in built], 1 + sum(size for _, size in built)

    def _mapping(self, node: Node) -> tuple[Json, int]:
        _expect(node, "map")
        own: dict[str, Json] = {}
        merged: dict[str, Json] = {}
        total = 1
        for key, child in node.value:
            value, size = self._build(child)
            total += size
            if key.tag == f"{_TAG}merge":
                for source in _merge_sources(child, value):
                    merged = {**source, **merged}
                continue
            name = _key(key)
            if name in own:
                raise _Unfit(key, f"{_shown(name)} is given twice")
            own[name] = value
        return {**merged, **own}, total


def _merge_sources(node: Node, value: Json) -> Iterator[dict[str, Json]]:
    """Mappings named by a merge key `<<`; the earlier one wins."""
    for source in value if isinstance(value, list) else [value]:
        if not isinstance(source, dict):
            raise _Unfit(node, "a merge key wants a mapping")
        yield source


def _key(node: Node) -> str:
    if not isinstance(node, ScalarNode) or node.tag != f"{_TAG}str":
        raise _Unfit(node, "a key that is not a text (put it in quotes)")
    return str(node.value)


def _expect(node: Node, kind: str) -> None:
    if node.tag != f"{_TAG}{kind}":
        raise _Unfit(node, f"tag {_shown(node.tag)} is not allowed")


def _shown(text: str) -> str:
    return ascii(text[:64])


def _scalar(node: ScalarNode) -> bool | int | float | str | None:
    text, kind = str(node.value), node.tag.removeprefix(_TAG)
    try:
        match kind:
            case "str":
                return text
            case "null":
                return None
            case "bool" if text.lower() in _BOOLEANS:
                return text.lower() in _TRUE
            case "int" if len(text) <= MAX_DIGITS:
                return _integer(text)
            case "float" if len(text) <= MAX_DIGITS:
                return float(text.replace(".inf", "inf").replace(".Inf", "inf").replace(".INF", "inf"))
            case _:
                pass
    except ValueError:
        pass  # said below, with the line
    why = "is not allowed" if kind not in {"bool", "int", "float"} else f"does not fit {_shown(text)}"
    raise _Unfit(node, f"tag {_shown(node.tag)} {why}")


def _integer(text: str) -> int:
    """Numbers as YAML 1.1 and 1.2 write them, both forms of octal too."""
    digits = text.lstrip("+-")
    octal = len(digits) > 1 and digits[0] == "0" and digits[1].isdigit()
    number = int(digits, 8) if octal else int(digits, 0)
    return -number if text.startswith("-") else number
