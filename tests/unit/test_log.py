"""What a log line looks like, and what cannot get into one."""

import errno
import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
import structlog

from littlelb.log import configure_logging


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say yes."""
        return True


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


class Full(io.StringIO):
    """A stream on a disk that is full."""

    def write(self, _text: str) -> int:
        """Say so."""
        raise OSError(errno.ENOSPC, "No space left on device")

    def flush(self) -> None:
        """Say so again."""
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_log_that_cannot_be_written_stops_nobody() -> None:
    """A full disk, or a terminal that was closed, is no reason to stop serving."""
    configure_logging(debug=False, stream=Full())
    structlog.get_logger("room").error("vip.announced")


def test_json_lines_with_utc_time() -> None:
    """Away from a terminal each event is one JSON object with level and UTC time."""
    stream = io.StringIO()
    configure_logging(debug=False, stream=stream)
    structlog.get_logger("room").info("vip.announced", address="203.0.113.1", count=3)
    entry = json.loads(stream.getvalue())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", entry.pop("timestamp"))
    assert entry == {"event": "vip.announced", "level": "info", "address": "203.0.113.1", "count": 3}


def test_console_at_a_terminal() -> None:
    """At a terminal, or when asked for, it is key=value."""
    terminal, pipe = Terminal(), io.StringIO()
    configure_logging(debug=False, stream=terminal)
    structlog.get_logger().info("vip.announced", address="203.0.113.1")
    configure_logging(debug=False, log_format="console", stream=pipe)
    structlog.get_logger().info("vip.announced", address="203.0.113.1")
    assert "\x1b[" in terminal.getvalue()
    assert "address=203.0.113.1" in pipe.getvalue()
    assert "\x1b" not in pipe.getvalue()


def test_debug_level() -> None:
    """Debug events are written only under --debug."""
    quiet, loud = io.StringIO(), io.StringIO()
    configure_logging(debug=False, stream=quiet)
    structlog.get_logger().debug("watch.event")
    configure_logging(debug=True, stream=loud)
    structlog.get_logger().debug("watch.event")
    assert quiet.getvalue() == ""
    assert "watch.event" in loud.getvalue()


@pytest.mark.parametrize(("debug", "expected"), [(False, ["warning"]), (True, ["debug", "info", "warning"])])
def test_quiet_commands_write_warnings_only(debug: bool, expected: list[str]) -> None:
    """People who asked for a table do not get a log beside it, unless they asked for that too."""
    stream = io.StringIO()
    configure_logging(debug=debug, quiet=True, stream=stream)
    log = structlog.get_logger()
    log.debug("one")
    log.info("two")
    log.warning("three")
    assert [json.loads(line)["level"] for line in stream.getvalue().splitlines()] == expected


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_hostile_fields(log_format: str) -> None:
    """Control characters, line breaks and bidi overrides are escaped, nested ones too; a line stays one line."""
    stream = io.StringIO()
    configure_logging(debug=False, log_format=log_format, stream=stream)
    evil = "a\x1b[2Jb\nlevel=error\u202ec\x00"
    structlog.get_logger().info(
        "service.refused", message=evil, many=[evil], more={evil: {evil}}, deep=[[[[[evil]]]]], thing=ValueError(evil)
    )
    line = stream.getvalue()
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert "\\x1b[2Jb" in line


def test_long_fields_are_cut() -> None:
    """No field is longer than 1 KiB, counted in bytes."""
    stream = io.StringIO()
    configure_logging(debug=False, stream=stream)
    structlog.get_logger().info("service.refused", message="é" * 5000)
    message = json.loads(stream.getvalue())["message"]
    assert 1000 < len(message.encode()) <= 1024
    assert message.endswith("é…")


def test_tracebacks_stay_readable() -> None:
    """A bug's traceback keeps its lines, while the text of the exception is escaped."""
    stream, console = io.StringIO(), io.StringIO()
    for log_format, target in (("json", stream), ("console", console)):
        configure_logging(debug=False, log_format=log_format, stream=target)
        try:
            _fail()
        except RuntimeError:
            structlog.get_logger().exception("daemon.bug")
    lines = json.loads(stream.getvalue())["exception"].splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "RuntimeError: \\x1b[31mimpossible"
    assert "\n".join(lines) in console.getvalue()


def _fail() -> None:
    raise RuntimeError("\x1b[31mimpossible")


def test_foreign_loggers() -> None:
    """Warnings of libraries arrive in the same form, with their logger's name; their chatter does not."""
    stream = io.StringIO()
    configure_logging(debug=True, stream=stream)
    logging.getLogger("asyncio").info("chatter")
    logging.getLogger("asyncio").warning("slow\x1b callback %s", 1)
    entry = json.loads(stream.getvalue())
    assert (entry["event"], entry["logger"], entry["level"]) == ("slow\\x1b callback 1", "asyncio", "warning")
