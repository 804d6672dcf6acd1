"""The words between the daemon and its workers and their framing; standard library only, for the worker imports it.

A message is a length (4 bytes, network order) and a JSON object of that length. Descriptors travel as SCM_RIGHTS on the
length; the field `fds` says how many belong to the message. The daemon asks (`do`), the worker answers in order (`ok`).

Three questions must stay as they are for ever, so that any later version can take over from any earlier one:

    hello                     → ok, protocol, version, pid, started, netns, retiring
    lend    from: N           → ok, frontends: ["TCP 192.0.2.7 80", …] from the Nth on, more: bool, fds: one for each
    retire  seconds: N | null → ok; stops accepting, lets flows end (at most N seconds, null: no limit), then exits

The others belong to protocol version 2 and may change with it:

    set      rules: [rule], fds: one for each rule with `lent` → ok, missing: frontends whose listener it does not have
    drop     frontends: [[frontend, seconds that its flows may go on]] → ok
    part     frontends: [frontend] → ok; accepts there no more, yet follows the rules for the flows that are left
    serving  from: N → ok, rules: [rule], more
    counters from: N → ok, frontends: [[frontend, accepted, active, failed, bytes_in, bytes_out, [[address, port,
                       accepted, active]]]], more, flows: connections of any frontend, paused: bool
"""

import json
from typing import Final

PROTOCOL: Final = 2
MAX_FDS: Final = 253
"""SCM_MAX_FD of Linux."""
MAX_BODY: Final = 4 << 20
"""Bytes. A rule with 32 backends is about 1 kB."""
MAX_BACKENDS: Final = 40_000
"""Of one rule: so many fit into a message, with the counters of each and whatever the addresses."""
BATCH_BYTES: Final = 256 << 10
"""A sender starts a new message beyond this."""

Json = dict[str, object]


class WireError(ValueError):
    """The peer sent something that is not a message of ours; the connection ends."""


class Framer:
    """Cuts a stream into messages and deals out the descriptors that came with it."""

    def __init__(self) -> None:
        """Start empty."""
        self._buffer = bytearray()
        self._fds: list[int] = []

    def feed(self, chunk: bytes, fds: list[int]) -> list[tuple[Json, list[int]]]:
        """Take what was received; return the messages that are now complete. Raises WireError."""
        self._buffer += chunk
        self._fds += fds
        messages = []
        while (message := self._cut()) is not None:
            messages.append(message)
        return messages

    def _cut(self) -> tuple[Json, list[int]] | None:
        if len(self._buffer) < 4:
            return None
        length = int.from_bytes(self._buffer[:4], "big")
        if length > MAX_BODY:
            raise WireError(f"a message of {length} bytes")
        if len(self._buffer) < 4 + length:
            return None
        body = bytes(self._buffer[4 : 4 + length])
        del self._buffer[: 4 + length]
        message = parse(body)
        count = integer(message.get("fds", 0), 0, MAX_FDS)
        if count > len(self._fds):
            raise WireError(f"{count} descriptors announced, {len(self._fds)} came")
        fds, self._fds = self._fds[:count], self._fds[count:]
        return message, fds

    def leftovers(self) -> list[int]:
        """Descriptors that belong to no message: to be closed when the stream ends."""
        fds, self._fds = self._fds, []
        return fds


def parse(body: bytes) -> Json:
    """Read one JSON object. Raises WireError."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise WireError(f"not JSON: {error}") from error
    if not isinstance(message, dict):
        raise WireError("not an object")
    return message


def render(message: Json) -> tuple[bytes, bytes]:
    """Return (length, body). Raises WireError when it is too long for the other side."""
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > MAX_BODY:
        raise WireError(f"a message of {len(body)} bytes")
    return len(body).to_bytes(4, "big"), body


def integer(value: object, low: int, high: int) -> int:
    """Return a whole number within bounds. Raises WireError."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise WireError(f"{value!r:.80} is not a whole number of {low} to {high}")
    return value


def text(value: object) -> str:
    """Return a text of at most 1,000 characters. Raises WireError."""
    if not isinstance(value, str) or len(value) > 1000:
        raise WireError(f"{value!r:.80} is not a short text")
    return value


def sequence(value: object) -> list[object]:
    """Return a list. Raises WireError."""
    if not isinstance(value, list):
        raise WireError(f"{value!r:.80} is not a list")
    return value
