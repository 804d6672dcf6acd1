"""Why an address is not, or not yet, on its device: sentences for the owner of the Service. Pure."""

import errno

from littlelb.core.model import Ip
from littlelb.core.plan import Failure, Severity
from littlelb.core.reasons import Reason


def being_asked(address: Ip) -> Failure:
    """Nobody knows yet whether another machine has it."""
    return Failure(Reason.PENDING, f"asking the LAN whether {address} is free", Severity.WAITING)


ABOUT_TO_BE_PUT = Failure(Reason.PENDING, "about to be put on its device, after others", Severity.WAITING)
"""There are so many that one pass did not get to it; the same value for all, because it is made in each pass."""


def missing(address: Ip, device: str) -> Failure:
    """There is no such device now."""
    return Failure(Reason.FAILED, f"{address} cannot be held: the link device {device} does not exist; it is awaited")


def conflict(address: Ip, mac: str) -> Failure:
    """Another machine answers for it."""
    return Failure(Reason.ADDRESS_CONFLICT, f"{address} is already in use on the LAN by {mac}")


def explain(error: OSError, address: Ip, device: str) -> Failure:
    """Turn the kernel's refusal into a sentence with the remedy."""
    match error.errno:
        case errno.EPERM:
            text = f"not permitted to change {address} on {device}: grant the capability CAP_NET_ADMIN, or run as root"
            return Failure(Reason.NOT_PERMITTED, text, Severity.PERMANENT)
        case errno.EACCES if address.version == 6:
            text = f"{address} cannot be held: IPv6 is off on {device}; set net.ipv6.conf.{device}.disable_ipv6 to 0"
            return Failure(Reason.FAILED, text, Severity.PERMANENT)
        case errno.ENODEV | errno.ENXIO:
            return missing(address, device)
        case _:
            return Failure(Reason.FAILED, f"the kernel refused {address} on {device}: {error.strerror}")
