"""What passes and what does not, and what an error says."""

import errno

import pytest

from littlelb.core.errors import Permanent, Transient
from littlelb.dataplane.netfilter.errors import KernelRefusal, TooLarge, refusal


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EEXIST, errno.EBUSY, errno.ENOMEM, errno.ERESTART, 9999])
def test_what_may_pass(code: int) -> None:
    """A world that differs from what was believed, or short memory, may be better at the next look."""
    error = refusal(code, index=4)
    assert isinstance(error, Transient)
    assert isinstance(error, KernelRefusal)
    assert error.retry_after_seconds is None
    assert (error.code, error.index) == (code, 4)


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.EMSGSIZE, errno.ENFILE, errno.EINVAL])
def test_what_does_not_pass(code: int) -> None:
    """Rights, kernels and sizes stay as they are until somebody changes them."""
    assert isinstance(refusal(code), Permanent)


def test_words() -> None:
    """The text has the request, the errno's name, the remedy and the kernel's own words."""
    error = refusal(errno.EPERM, index=2, text="Operation on owned table", offset=24)
    assert str(error) == (
        "nf_tables refused (request 2): EPERM: not permitted: run as root, or give the process CAP_NET_ADMIN in its"
        " network namespace; the kernel says: Operation on owned table"
    )
    assert (error.text, error.offset) == ("Operation on owned table", 24)


def test_too_large() -> None:
    """Who halves refused transactions halves this one too; the text has both sizes."""
    error = TooLarge(3_000, 2_000)
    assert isinstance(error, KernelRefusal)
    assert isinstance(error, Permanent)
    assert (error.code, error.index, error.size, error.limit) == (errno.EMSGSIZE, None, 3_000, 2_000)
    assert str(error).startswith("a transaction of 3000 bytes does not fit into a send buffer of 2000: split it")
