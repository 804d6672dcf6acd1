"""The exception tree."""

from littlelb.core.errors import ConfigError, LittlelbError, Permanent, Transient, WorldError


def test_config_error_keeps_every_line() -> None:
    """All errors are shown at once."""
    error = ConfigError(["one", "two"])
    assert error.errors == ("one", "two")
    assert str(error) == "one\ntwo"


def test_transient_keeps_what_the_other_side_asked_for() -> None:
    """Retry-After travels with the error; both kinds are errors of the world."""
    assert Transient("busy", 3.0).retry_after_seconds == 3.0
    assert Transient("busy").retry_after_seconds is None
    assert issubclass(Permanent, WorldError)
    assert issubclass(WorldError, LittlelbError)
