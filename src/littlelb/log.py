"""Sets up structured logging for the process; rooms only ask structlog for a logger.

Standard error only. key=value for people at a terminal, one JSON object a line for everything else; UTC; every text is
escaped and cut at 1 KiB, because texts come from objects that anybody in the cluster may write.
"""

import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, WrappedLogger

from littlelb.core.shown.text import printable

_DEPTH = 4
"""Values nested deeper than this are shown as text."""


class _Unfailing:
    """A stream whose writer goes on when the disk is full, or the terminal or the reader of a pipe has gone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError):  # there is no other place to say it
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError):  # as above
            self._stream.flush()


def configure_logging(
    *, debug: bool, quiet: bool = False, log_format: str = "auto", stream: TextIO | None = None
) -> None:
    """Set up structlog, and the standard library's logging (aiohttp, asyncio) from level WARNING.

    Events are written from level INFO, where `quiet` from WARNING, where `debug` from DEBUG. `log_format` is `auto`
    (console at a terminal, else JSON), `console` or `json`; `stream` defaults to stderr.
    """
    stream = stream if stream is not None else sys.stderr
    console = log_format == "console" or (log_format == "auto" and stream.isatty())
    level = logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO
    shared = (
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        escape_fields,
    )
    renderer = _console_renderer(colors=stream.isatty()) if console else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, *shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _Unfailing(stream))),
        cache_logger_on_first_use=False,
    )
    foreign = logging.StreamHandler(stream)
    foreign.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [foreign]
    root.setLevel(logging.WARNING)


def escape_fields(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Structlog processor: make each field safe to show, whatever its author wrote; time and event first."""
    event = {key: event[key] for key in ("timestamp", "level", "event") if key in event} | dict(event)
    return {printable(str(key), 64): _escape_field(str(key), value) for key, value in event.items()}


def _escape_field(key: str, value: object) -> object:
    if key.startswith("_"):  # structlog's own: `_record`, `_from_structlog`
        return value
    if key == "exception":  # a traceback keeps its lines, and its length: it is ours to read
        return "\n".join(printable(line) for line in str(value).splitlines())
    return _escape(value)


def _escape(value: object, depth: int = _DEPTH) -> object:
    match value:
        case None | bool() | int() | float():
            return value
        case Mapping() if depth:
            return {printable(str(key), 64): _escape(item, depth - 1) for key, item in value.items()}
        case list() | tuple() if depth:
            return [_escape(item, depth - 1) for item in value]
        case set() | frozenset() if depth:
            return sorted(str(_escape(item, depth - 1)) for item in value)
        case _:
            return printable(str(value))


def _console_renderer(*, colors: bool) -> Any:
    """Render `time level event key=value …` on one line: a line break in a field was escaped before."""
    return structlog.dev.ConsoleRenderer(
        colors=colors, pad_event_to=24, sort_keys=False, exception_formatter=structlog.dev.plain_traceback
    )
