"""What a settings file may say, and what is said about one that cannot be used."""

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from littlelb.config import Config, Plane, load_config
from littlelb.configfile import Given, read_settings_file
from littlelb.core.errors import ConfigError
from littlelb.goflags import OPTIONS


def load(file: Path) -> Config:
    """Load this file and nothing else."""
    return load_config({"config": str(file)}, {}, device_required=False)


def errors_of(file: Path) -> tuple[str, ...]:
    """Return the error lines of a file that must not load."""
    with pytest.raises(ConfigError) as caught:
        load(file)
    return caught.value.errors


def test_entries_know_their_lines(tmp_path: Path) -> None:
    """Each value comes with the file, line and key that it stands at."""
    file = tmp_path / "config.yaml"
    file.write_text("# ours\nplane: pipe\n\nrefuse-addresses:\n  - 192.0.2.0/24\n")
    assert read_settings_file(file) == (
        {
            "plane": Given("pipe", f"{file}:2: plane"),
            "refuse_addresses": Given(["192.0.2.0/24"], f"{file}:4: refuse-addresses"),
        },
        [],
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "config.yaml:1: is not YAML"),
        ("- a\n", "config.yaml:1: must be a mapping"),
        ("\t", "config.yaml:1: is not YAML"),
        ("config: x\n", "config.yaml:1: there is no setting 'config'"),
        ("? [a]\n: b\n", "config.yaml:1: there is no setting"),
        ("debug: 2026-99-99\n", "config.yaml:1: debug"),
        ("debug: !!python/object:os.system x\n", "config.yaml:1: debug: cannot be read"),
        ("linkdevice: 7\n", "config.yaml:1: linkdevice: '7': must be a valid string"),
        ("debug: 1\n", "config.yaml:1: debug: '1': must be a valid boolean"),
        ("refuse-addresses: 5\n", "config.yaml:1: refuse-addresses: '5': must be a list of CIDRs"),
        ("refuse-addresses: [192.0.2.1/24]\n", "has host bits set"),
        ("plane: {a: b}\n", "config.yaml:1: plane: must be a plain value or a list of plain values"),
        ("refuse-addresses: &a [*a]\n", "config.yaml:1: refuse-addresses: must be a plain value or a list"),
        ("plane: " + "[" * 1500, "is nested too deeply"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, said: str) -> None:
    """A file that cannot be used is an error that names file, line and key; nothing in it is executed."""
    file = tmp_path / "config.yaml"
    file.write_text(text)
    errors = errors_of(file)
    assert any(said in line for line in errors), errors


@given(
    st.one_of(
        st.text(),
        st.dictionaries(
            st.sampled_from([option.name for option in OPTIONS]),
            st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5),
        ).map(yaml.safe_dump),
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_file_loads_or_is_explained(tmp_path: Path, text: str) -> None:
    """Whatever stands in the file: a Config, or a ConfigError of printable lines; never anything else."""
    file = tmp_path / "config.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        load(file)
    except ConfigError as error:
        assert error.errors  # noqa: PT017  (both outcomes are right)
        assert all(line.isprintable() for line in error.errors)  # noqa: PT017


def test_a_long_path_is_shown_whole(tmp_path: Path) -> None:
    """The end of a path is the file's name: an error that cut it off would not say which file."""
    file = tmp_path / ("deep" * 30) / "config.yaml"
    file.parent.mkdir()
    file.write_text("a: [")
    assert errors_of(file)[0].startswith(f"{file}:1: is not YAML")


def test_unreadable_files(tmp_path: Path) -> None:
    """A missing file and one that is not text are errors; an empty one, and an empty value, mean defaults."""
    binary, empty = tmp_path / "binary", tmp_path / "empty"
    binary.write_bytes(b"\xff\xfe\x00")
    empty.write_text("# nothing yet\n")
    assert "No such file" in errors_of(tmp_path / "missing")[0]
    assert errors_of(binary) == (f"{binary}: is not UTF-8",)
    assert load(empty).plane is Plane.AUTO
    empty.write_text("manifests:\nplane: ~\n")
    assert load(empty).kubernetes
