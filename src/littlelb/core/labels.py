"""Label selectors in the text form of `kubectl -l` (apimachinery labels.Parse): equality, sets, existence."""

import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

Labels: TypeAlias = Mapping[str, str]
Selector: TypeAlias = Callable[[Labels], bool]

_KEY = r"[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?"
_VALUE = r"[A-Za-z0-9._-]*"
_TERM = re.compile(
    rf"\s*(?:(?P<not>!)\s*(?P<absent>{_KEY})"
    rf"|(?P<setkey>{_KEY})\s+(?P<setop>in|notin)\s*\((?P<values>[^()]*)\)"
    rf"|(?P<key>{_KEY})\s*(?P<op>==|=|!=)\s*(?P<value>{_VALUE})"
    rf"|(?P<present>{_KEY}))\s*(?:,|$)"
)


def parse_selector(text: str) -> Selector:
    """Read a selector; the empty one selects everything. Raises ValueError with the place that cannot be read."""
    terms: list[Selector] = []
    position = 0
    while position < len(text.rstrip()):
        match = _TERM.match(text, position)
        if match is None:
            raise ValueError(f"label selector {text[:200]!r} cannot be read from {text[position : position + 40]!r} on")
        terms.append(_term(match))
        position = match.end()
    return lambda labels: all(term(labels) for term in terms)


def _term(match: re.Match[str]) -> Selector:
    """Turn one parsed requirement into a test."""
    part = match.groupdict()
    if part["absent"]:
        return lambda labels: part["absent"] not in labels
    if part["present"]:
        return lambda labels: part["present"] in labels
    if part["setkey"]:
        values = frozenset(value.strip() for value in part["values"].split(","))
        if part["setop"] == "in":
            return lambda labels: labels.get(part["setkey"]) in values
        return lambda labels: labels.get(part["setkey"]) not in values
    if part["op"] == "!=":
        return lambda labels: labels.get(part["key"]) != part["value"]
    return lambda labels: labels.get(part["key"]) == part["value"]
