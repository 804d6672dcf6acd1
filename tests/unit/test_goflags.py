"""Every spelling that Go's flag package takes, and what click is given for it."""

import pytest

from littlelb.goflags import OPTIONS, Vocabulary, normalise_arguments, parse_bool

WORDS = Vocabulary(
    values=frozenset({"linkdevice", "config", "output"}),
    booleans=frozenset({"debug", "class-less"}),
    commands=frozenset({"run", "plan", "status"}),
)

SPELLINGS = [
    ("", "run"),
    ("--linkdevice eth0", "run --linkdevice=eth0"),
    ("--linkdevice=eth0", "run --linkdevice=eth0"),
    ("-linkdevice eth0", "run --linkdevice=eth0"),
    ("-linkdevice=eth0", "run --linkdevice=eth0"),
    ("-linkdevice=a=b", "run --linkdevice=a=b"),
    ("--linkdevice=", "run --linkdevice="),
    ("-linkdevice --debug", "run --linkdevice=--debug"),
    ("--linkdevice", "run --linkdevice"),
    ("-linkdevice -- x", "x --linkdevice=--"),
    ("--debug", "run --debug=true"),
    ("-debug", "run --debug=true"),
    ("-debug=f", "run --debug=f"),
    ("--debug=TRUE", "run --debug=TRUE"),
    ("--debug=", "run --debug="),
    ("--debug plan", "plan --debug=true"),
    ("--class-less", "run --class-less=true"),
    ("--no-class-less", "run --class-less=false"),
    ("--no-class-less=true", "run --no-class-less=true"),
    ("plan -o json", "plan --output=json"),
    ("plan -o=json --linkdevice eth0", "plan --output=json --linkdevice=eth0"),
    ("--linkdevice eth0 plan", "plan --linkdevice=eth0"),
    ("-config f status default/web", "status --config=f default/web"),
    ("--help", "--help"),
    ("-h", "--help"),
    ("run -help", "run --help"),
    ("--nonsense", "run --nonsense"),
    ("-nonsense=1", "run --nonsense=1"),
    ("-nonsense 1", "run --nonsense 1"),
    ("--nonsense status", "status --nonsense"),
    ("nonsense --debug", "nonsense --debug=true"),
    ("status -- -x", "status -- -x"),
    ("--debug -- --linkdevice", "run --debug=true -- --linkdevice"),
    ("status -", "status -"),
]


@pytest.mark.parametrize(("written", "read"), SPELLINGS)
def test_spelling(written: str, read: str) -> None:
    """Go's spellings become the sub-command and `--name=value`; a boolean never eats the next word."""
    assert " ".join(normalise_arguments(written.split(), WORDS)) == read


def test_normalising_twice_changes_nothing() -> None:
    """What was normalised once is a spelling of itself."""
    for written, _ in SPELLINGS:
        once = normalise_arguments(written.split(), WORDS)
        if written != "--linkdevice":  # a missing value stays missing, and the command now stands before it
            assert normalise_arguments(once, WORDS) == once


@pytest.mark.parametrize("text", ["1", "t", "T", "TRUE", "true", "True"])
def test_true(text: str) -> None:
    """Go's six spellings of true are true."""
    assert parse_bool(text) is True


@pytest.mark.parametrize("text", ["0", "f", "F", "FALSE", "false", "False"])
def test_false(text: str) -> None:
    """Go's six spellings of false are false."""
    assert parse_bool(text) is False


@pytest.mark.parametrize("text", ["", "yes", "no", "on", "tRUE", " true", "2"])
def test_not_a_boolean(text: str) -> None:
    """Nothing else is a boolean, and the error says what is."""
    with pytest.raises(ValueError, match="must be one of 1, t, T"):
        parse_bool(text)


def test_names_of_options() -> None:
    """Each option has one name in three forms; only the four oldest variables have no prefix."""
    bare = {option.environment for option in OPTIONS if not option.environment.startswith("LITTLELB_")}
    assert bare == {"KUBECONFIG", "LINKDEVICE", "DEBUG", "KUBERNETES"}
    assert {o.name for o in OPTIONS if o.boolean} == {"debug", "kubernetes", "class-less", "external-ips", "accounting"}
    assert len({option.field for option in OPTIONS}) == len(OPTIONS)
