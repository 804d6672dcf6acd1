"""Reads kubeconfig files: several merged into one, one context chosen, every fault told at once.

The rules are kubectl's (kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig): of several
files the first that names a cluster, user or context wins as a whole, `current-context` comes from the first that has
one, relative paths start at the folder of the file they stand in, `…-data` beats the path beside it. Only the chosen
context's entries are judged: a broken one that nobody uses is nobody's problem.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from littlelb.core.errors import ConfigError
from littlelb.kube.credentials.entries import Cluster, Context, User
from littlelb.kube.credentials.faults import judge_cluster, judge_user

_LISTS = ("clusters", "users", "contexts")


@dataclass(frozen=True, slots=True)
class Access:
    """One context of a kubeconfig, resolved and judged; the files that it names have not been opened."""

    context: str
    cluster: Cluster
    user: User
    origin: str
    """For messages: the kubeconfig's path or paths."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A named entry as it stands in its file."""

    value: object
    file: Path


@dataclass(slots=True)
class _Merged:
    current: str
    entries: dict[str, dict[str, _Entry]]
    """List name (clusters, users, contexts) → entry name → entry."""


T = TypeVar("T")


def read_kubeconfig(paths: str, context: str = "") -> Access:
    """Read the files of a colon list and resolve `context`, or else their current-context.

    A file of a list that does not exist is passed over, as kubectl does, unless none exists. Raises `ConfigError`.
    """
    files = [Path(text).expanduser() for text in dict.fromkeys(paths.split(":")) if text]
    errors: list[str] = []
    existing = [file for file in files if file.exists()]
    if not existing:
        raise ConfigError([_absent(files)])
    documents = {file: _read_document(file, errors) for file in existing}
    if errors:
        raise ConfigError(errors)
    origin = ":".join(map(str, existing))
    access = _resolve(_merge(documents, errors), context, origin, errors)
    if access is None or errors:
        raise ConfigError(errors)
    return access


def _absent(files: list[Path]) -> str:
    names = ", ".join(map(str, files)) or "(an empty path)"
    return f"kubeconfig {names}: no such file; name an existing file with --kubeconfig or KUBECONFIG"


def _read_document(file: Path, errors: list[str]) -> Mapping[str, object]:
    try:
        document = yaml.load(file.read_bytes(), Loader=yaml.CSafeLoader)
    except OSError as error:
        errors.append(f"kubeconfig {file}: cannot be read ({error.strerror}); check its permissions and owner")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        errors.append(f"kubeconfig {file}: is not valid YAML ({_one_line(error)}); write it anew, or restore it")
    else:
        if document is None:
            return {}
        if isinstance(document, dict):
            return document
        errors.append(f"kubeconfig {file}: holds no mapping at its top; it should begin with `apiVersion: v1`")
    return {}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _merge(documents: Mapping[Path, Mapping[str, object]], errors: list[str]) -> _Merged:
    """First wins, for each name and for current-context."""
    merged = _Merged("", {name: {} for name in _LISTS})
    for file, document in documents.items():
        current = document.get("current-context")
        merged.current = merged.current or (current if isinstance(current, str) else "")
        for list_name in _LISTS:
            _merge_list(
                merged.entries[list_name], document.get(list_name), f"kubeconfig {file}: {list_name}", file, errors
            )
    return merged


def _merge_list(into: dict[str, _Entry], items: object, where: str, file: Path, errors: list[str]) -> None:
    """Take the names that are new. An entry is `{name: N, cluster|user|context: {...}}`."""
    if items is None:
        return
    if not isinstance(items, list):
        errors.append(f"{where} is not a list; each entry begins with `- name:`")
        return
    kind = where.rpartition(" ")[2][:-1]
    for number, item in enumerate(items):
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str) or not name:
            errors.append(f"{where}[{number}] has no name; give it one, so that a context can refer to it")
            continue
        into.setdefault(name, _Entry(item.get(kind), file))


def _resolve(merged: _Merged, context: str, origin: str, errors: list[str]) -> Access | None:
    wanted = context or merged.current
    if not wanted:
        known = ", ".join(sorted(merged.entries["contexts"])) or "none"
        errors.append(
            f"kubeconfig {origin}: no current-context; set it with `kubectl config use-context NAME` (there: {known})"
        )
        return None
    chosen = _pick(merged, "context", wanted, Context, origin, errors)
    if chosen is None:
        return None
    cluster = _pick(merged, "cluster", chosen.cluster, Cluster, origin, errors)
    # kubectl lets a context name no user: an anonymous client, as on an insecure port.
    user = _pick(merged, "user", chosen.user, User, origin, errors) if chosen.user else User()
    if cluster is not None:
        judge_cluster(cluster, f"kubeconfig {origin}: cluster {chosen.cluster!r}", errors)
    if user is not None:
        judge_user(user, f"kubeconfig {origin}: user {chosen.user!r}", errors)
    return None if cluster is None or user is None else Access(wanted, cluster, user, origin)


def _pick(merged: _Merged, kind: str, name: str, form: type[T], origin: str, errors: list[str]) -> T | None:
    """Find the entry, give it its type, and make its paths absolute."""
    entries = merged.entries[f"{kind}s"]
    entry = entries.get(name)
    if entry is None:
        known = ", ".join(sorted(entries)) or "none"
        errors.append(f"kubeconfig {origin}: {kind} {name!r} is not there; add it, or choose another (there: {known})")
        return None
    try:
        value = _without_nulls(entry.value if entry.value is not None else {})
        if isinstance(value, dict):
            value = _with_absolute_paths(value, entry.file.absolute().parent)
        return msgspec.convert(value, form)
    except (msgspec.ValidationError, RecursionError) as error:  # an alias of YAML can contain itself
        errors.append(f"kubeconfig {entry.file}: {kind} {name!r}: {error}; correct the field's type")
        return None


def _without_nulls(value: object) -> object:
    """Drop `key: null`, which Go's decoder reads as absent."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value]
    return value


def _with_absolute_paths(value: dict[str, Any], folder: Path) -> dict[str, Any]:
    resolved = dict(value)
    for name in ("certificate-authority", "client-certificate", "client-key", "tokenFile"):
        path = value.get(name)
        if isinstance(path, str) and path:
            resolved[name] = str(folder / path)
    plugin = value.get("exec")
    if isinstance(plugin, dict) and isinstance(plugin.get("command"), str) and "/" in plugin["command"]:
        resolved["exec"] = {**plugin, "command": str(folder / plugin["command"])}
    return resolved
