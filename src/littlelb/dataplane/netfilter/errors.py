"""What the kernel refuses, as an error that says which request, why, and whether asking again may help.

WorldError
├── Transient ─── RefusedForNow    somebody else changed something, or memory is short: look again, then retry
└── Permanent ─── RefusedForGood   rights, kernel or sizes: the text holds the remedy
"""

import errno
from collections.abc import Mapping
from typing import Final

from littlelb.core.errors import Permanent, Transient, WorldError

_WORDS: Final[Mapping[int, str]] = {
    errno.ENOENT: "it, or what it refers to, is not there",
    errno.EEXIST: "it is there already, with another value",
    errno.EBUSY: "it is in use",
    errno.ENOMEM: "the kernel has no memory for it",
    errno.ENOBUFS: "the kernel has no buffer for it",
    errno.ERESTART: "somebody else changed the ruleset meanwhile",
    errno.EINTR: "it was interrupted",
}
"""What may pass, by errno."""

_REMEDIES: Final[Mapping[int, str]] = {
    errno.EPERM: "not permitted: run as root, or give the process CAP_NET_ADMIN in its network namespace",
    errno.EACCES: "not permitted: run as root, or give the process CAP_NET_ADMIN in its network namespace",
    errno.EOPNOTSUPP: "this kernel cannot do it: load its nf_tables modules, or use a newer kernel",
    errno.EPROTONOSUPPORT: "this kernel has no nf_tables: load the module nf_tables",
    errno.EAFNOSUPPORT: "this kernel has no nf_tables for this address family: load its modules",
    errno.ENFILE: "the set is full: make it with a larger size",
    errno.EMSGSIZE: "the transaction is larger than the socket's send buffer: raise net.core.wmem_max, or split it",
    errno.EINVAL: "the kernel does not take it as it is: this is a bug, or the kernel is too old",
    errno.ERANGE: "the kernel does not take a number in it: this is a bug",
}
"""What does not pass by itself, by errno → what to do."""


class KernelRefusal(WorldError):
    """The kernel said no to a request; always a RefusedForNow or a RefusedForGood."""

    def __init__(
        self, code: int, *, index: int | None = None, text: str | None = None, offset: int | None = None
    ) -> None:
        """`code` is the errno; for the others see the attributes."""
        where = "" if index is None else f" (request {index})"
        reason = _REMEDIES.get(code) or _WORDS.get(code) or "no word about it is known"
        said = f"; the kernel says: {text}" if text else ""
        super().__init__(f"nf_tables refused{where}: {errno.errorcode.get(code, code)}: {reason}{said}")
        self.code = code
        self.index = index
        """Which of the transaction's requests; None: the transaction as a whole."""
        self.text = text
        """The kernel's own words, where it has some."""
        self.offset = offset
        """Of the attribute at fault, in bytes from the start of the request's message; see `element_at`."""


class RefusedForNow(KernelRefusal, Transient):
    """It may pass: look at what is there, then ask again."""


class RefusedForGood(KernelRefusal, Permanent):
    """It will not pass by itself."""


class TooLarge(RefusedForGood):
    """A transaction fits into no send buffer that we may have; parts of it may."""

    def __init__(self, size: int, limit: int) -> None:
        """`size` and `limit` in bytes."""
        super().__init__(errno.EMSGSIZE)
        self.size, self.limit = size, limit
        what = f"a transaction of {size} bytes does not fit into a send buffer of {limit}"
        self.args = (f"{what}: split it, or raise net.core.wmem_max",)


def refusal(
    code: int, *, index: int | None = None, text: str | None = None, offset: int | None = None
) -> KernelRefusal:
    """Make the error for an errno. One that is not known may pass."""
    kind = RefusedForGood if code in _REMEDIES else RefusedForNow
    return kind(code, index=index, text=text, offset=offset)


class AnswerLost(Transient):
    """The kernel did not answer, or its answer found no room: whether it was done is not known, so look again."""


class DumpInterrupted(Transient):
    """What was to be listed changed each time that it was listed."""
