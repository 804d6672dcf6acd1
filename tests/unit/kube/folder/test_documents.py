"""YAML and JSON text, read strictly and within bounds."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from littlelb.kube.folder.documents import ManifestError, parse_file

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 64))


def values(text: str, name: str = "x.yaml") -> list[object]:
    """Values of all documents of a sound text."""
    parsed = parse_file(name, text.encode())
    assert not parsed.errors
    return [document.value for document in parsed.documents]


def test_documents_are_numbered_and_empty_ones_are_passed_over() -> None:
    """The number is the document's place in the file, as a reader counts."""
    parsed = parse_file("x.yaml", b"---\n---\na: 1\n---\n# nothing\n---\nb: 2\n")
    assert [(document.number, document.value) for document in parsed.documents] == [(2, {"a": 1}), (4, {"b": 2})]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2026-11-23T18:00:00Z", "2026-11-23T18:00:00Z"),
        ("1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8"),
        ("203.0.113.10", "203.0.113.10"),
        ("010", 8),
        ("0o10", 8),
        ("0x1F", 31),
        ("-7", -7),
        ("1_000", "1_000"),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("yes", True),
        ("off", False),
        ("~", None),
        ("'8080'", "8080"),
    ],
)
def test_plain_scalars_become_what_a_manifest_means(text: str, value: object) -> None:
    """No timestamps, no base-60 numbers: an address stays a text."""
    (found,) = values(f"a: {text}\n")
    assert found == {"a": value}


def test_aliases_and_merge_keys_are_followed() -> None:
    """What kubectl accepts is accepted; own keys win over merged ones."""
    (found,) = values("a: &a {x: 1, y: 2}\nb: *a\nc: {<<: *a, y: 3}\nd: {<<: [{z: 1}, {z: 2}]}\n")
    assert found == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 2}, "c": {"x": 1, "y": 3}, "d": {"z": 1}}


def test_json_is_read_by_the_ending_of_the_name() -> None:
    """Tabs and surrogate pairs, which libyaml does not take, are legal JSON."""
    assert values('{\n\t"a": "\\ud83d\\ude00"}', "x.json") == [{"a": "\U0001f600"}]


def test_a_byte_order_mark_is_passed_over() -> None:
    """Editors of other systems write one."""
    assert values("\ufeffa: 1") == [{"a": 1}]


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (b"", 0, "no object in it"),
        (b"# only\n# comments\n", 0, "no object in it"),
        (b"a: 1\nb: [1", 3, "not YAML"),
        (b"a:\n\tb: 1", 2, "not YAML"),
        (b"a: \x01", 1, "not YAML: control character"),
        (b"a: 1\nb: \xff\xfe", 2, "not UTF-8 text"),
        (b"\x7fELF\x00\x00", 1, "not YAML"),
        (b"a: 1\nb: 2\na: 3", 3, "'a' is given twice"),
        (b"1: x", 1, "a key that is not a text"),
        (b"? [a]\n: b", 1, "a key that is not a text"),
        (b"a: 1\nb: *c", 2, "not YAML"),
        (b"a: &a [*a]", 1, "an alias inside of what it refers to"),
        (BOMB.encode(), 17, "more than 250000 values"),
        (b"- " * 2_000_000, 1, "nested more than 64 deep"),
        (b"{a: " * 100 + b"}" * 100, 1, "nested more than 64 deep"),
        (b"- a\n" * 250_000, 250_000, "more than 250000 values"),
        (b"a: !!python/object/apply:os.system [id]", 1, "is not allowed"),
        (b"a: !!binary aGk=", 1, "is not allowed"),
        (b"a: !!timestamp foo", 1, "is not allowed"),
        (b"a: !!int foo", 1, "does not fit 'foo'"),
        (b"a: !!float foo", 1, "does not fit 'foo'"),
        (b"a: !!bool foo", 1, "does not fit 'foo'"),
        (b"a: " + b"9" * 5000, 1, "does not fit '999"),
        (b"<<: 3", 1, "a merge key wants a mapping"),
        (b"%YAML 9.9\n---\na", 1, "not YAML"),
    ],
)
def test_bad_text_is_an_error_with_its_line(text: bytes, line: int, reason: str) -> None:
    """Whatever stands in a file, the answer is a place and a reason, never an exception."""
    parsed = parse_file("x.yaml", text)
    assert not parsed.documents
    (error,) = parsed.errors
    assert reason in error.reason
    assert error.line == line
    assert str(error).isprintable()


@pytest.mark.parametrize("text", [b"{", b'{"a": 1}}', b"[" * 100_000, b"\xff", b"", b"nul"])
def test_bad_json_is_an_error(text: bytes) -> None:
    """The same for JSON."""
    parsed = parse_file("x.json", text)
    assert len(parsed.errors) == 1
    assert not parsed.documents


def test_sound_documents_before_a_break_are_kept() -> None:
    """The error names the document that broke; what came before it was read."""
    parsed = parse_file("x.yaml", b"a: 1\n---\nb: [\n---\nc: 1\n")
    assert [document.value for document in parsed.documents] == [{"a": 1}]
    assert [(error.document, error.file) for error in parsed.errors] == [(2, "x.yaml")]


def test_a_document_with_an_error_leaves_its_neighbours() -> None:
    """A document that is YAML, but no plain value, costs only itself."""
    parsed = parse_file("x.yaml", b"a: 1\n---\nb: 1\nb: 2\n---\nc: 1\n")
    assert [document.number for document in parsed.documents] == [1, 3]
    assert [(error.document, error.line) for error in parsed.errors] == [(2, 4)]


def test_too_many_documents_are_an_error() -> None:
    """The first 10,000 are read."""
    parsed = parse_file("x.yaml", b"a: 1\n---\n" * 10_002)
    assert len(parsed.documents) == 10_000
    assert "more than 10000 documents" in parsed.errors[0].reason


def test_the_line_of_a_value_or_of_what_is_around_it_is_found() -> None:
    """A path that leads nowhere ends at the last thing that is there."""
    (document,) = parse_file("x.yaml", b"a:\n  b:\n  - c: 1\n  - d: 2\n").documents
    assert document.line("a", "b", 1, "d") == 4
    assert document.line("a", "b", 7) == 3
    assert document.line() == 1
    (document,) = parse_file("x.json", b'{"a": 1}').documents
    assert document.line("a") == 0


def test_an_error_reads_as_file_document_line_reason() -> None:
    """Parts that are not known are left out."""
    assert str(ManifestError("web.yaml", 2, 14, "no")) == "web.yaml, document 2, line 14: no"
    assert str(ManifestError("web.yaml", 0, 0, "no")) == "web.yaml: no"


@given(st.binary(max_size=64) | st.text("ab: -[]{}&*!|>'\"\n#%,?0.", max_size=40).map(str.encode))
def test_any_bytes_are_parsed_without_an_exception(text: bytes) -> None:
    """Documents or errors, nothing else, and quickly."""
    start = time.process_time()
    for name in ("x.yaml", "x.json"):
        parsed = parse_file(name, text)
        assert parsed.documents or parsed.errors
    assert time.process_time() - start < 10
