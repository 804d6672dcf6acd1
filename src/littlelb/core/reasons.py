"""Why something is not as its owner wrote it: refusals and notices are values, never exceptions."""

from dataclasses import dataclass, replace
from enum import StrEnum

from littlelb.core.model import Frontend


class Reason(StrEnum):
    """Why a Service, or one port of it, is not served: the CamelCase word of its Event, condition and port error."""

    INVALID_SERVICE = "InvalidService"
    INVALID_ADDRESS = "InvalidAddress"
    FORBIDDEN_ADDRESS = "ForbiddenAddress"
    ADDRESS_IN_USE = "AddressInUse"
    ADDRESS_CONFLICT = "AddressConflict"
    CONTRADICTION = "ContradictoryRequest"
    NO_DEFAULT_ADDRESS = "NoDefaultAddress"
    UNKNOWN_POOL = "UnknownPool"
    OUT_OF_SUBNET = "OutOfSubnet"
    WRONG_FAMILY = "WrongFamily"
    PORT_IN_USE = "PortInUse"
    INVALID_PORT = "InvalidPort"
    PROTOCOL_NOT_SUPPORTED = "ProtocolNotSupported"
    PLANE_UNAVAILABLE = "PlaneUnavailable"
    NO_BACKENDS = "NoBackends"
    UNREACHABLE_PODS = "UnreachablePods"
    STALE_NODES = "StaleNodes"
    UNUSABLE_ENDPOINT = "UnusableEndpoint"
    INVALID_SOURCE_RANGES = "InvalidSourceRanges"
    INVALID_ANNOTATION = "InvalidAnnotation"
    SOURCE_ADDRESS = "SourceAddress"
    CLIENT_ADDRESS_LOST = "ClientAddressLost"
    NOT_PERMITTED = "NotPermitted"
    PENDING = "Pending"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that will not be done for a Service, until an input changes: a value, not an exception."""

    reason: Reason
    message: str
    frontend: Frontend | None = None
    """The one frontend that is refused; None: the request as a whole."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the owner should know although the Service is served."""

    reason: Reason
    message: str
    warning: bool = True
    """False: nothing is wrong; it is shown by `status`, and is no Event."""

    def quiet(self) -> "Notice":
        """Return the same, as nothing to warn of."""
        return replace(self, warning=False)
