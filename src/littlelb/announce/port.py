"""Opens a device for raw Ethernet frames: packet(7) sockets that see ARP and neighbour discovery only.

Needs CAP_NET_RAW (PermissionError without). What is asked of the device itself (MAC address, does anybody answer ARP
there?) needs no right; it is read by ioctl (netdevice(7)), not from /sys, which may show another network namespace.
"""

import asyncio
import ctypes
import errno
import fcntl
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from littlelb.announce.packets import ADVERTISEMENT, ETHERTYPE_IPV6, SOLICITATION, Frame, parse_frame

_SIOCGIFFLAGS, _SIOCGIFHWADDR = 0x8913, 0x8927
_IFF_LOOPBACK, _IFF_NOARP = 0x8, 0x80
_ARPHRD_ETHER = 1
_SO_ATTACH_FILTER = 26
_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, _PACKET_MR_ALLMULTI = 263, 1, 2
_FRAME_LIMIT = 2048
_FRAMES_AT_ONCE = 256
_RECEIVE_BUFFER = 4 << 20
"""Ten thousand addresses that are all taken are answered within a second."""
_SO_RCVBUFFORCE = 33
_FULL = frozenset({errno.ENOBUFS, errno.EAGAIN})

_LOAD_BYTE, _JUMP_EQUAL, _RETURN = 0x30, 0x15, 0x06
_NEIGHBOUR_ONLY = (
    # classic BPF: operation, jump if true, jump if false, operand; offsets count from the Ethernet header
    (_LOAD_BYTE, 0, 0, 14 + 6),  # next header of IPv6
    (_JUMP_EQUAL, 0, 3, 58),  # ICMPv6, else drop
    (_LOAD_BYTE, 0, 0, 14 + 40),  # type of ICMPv6
    (_JUMP_EQUAL, 2, 0, SOLICITATION),
    (_JUMP_EQUAL, 1, 0, ADVERTISEMENT),
    (_RETURN, 0, 0, 0),
    (_RETURN, 0, 0, _FRAME_LIMIT),
)


@dataclass(frozen=True, slots=True)
class Device:
    """What a sender must know of a network device."""

    name: str
    mac: bytes
    asked: bool
    """Machines ask one another for addresses on it: Ethernet, and neither loopback nor NOARP."""


def read_device(name: str) -> Device | None:
    """Look at a device of this network namespace; None: there is no such device."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        try:
            (flags,) = struct.unpack_from("H", _ioctl(asker, _SIOCGIFFLAGS, name), 16)
            hardware, mac = struct.unpack_from("H6s", _ioctl(asker, _SIOCGIFHWADDR, name), 16)
        except OSError as error:
            if error.errno in {errno.ENODEV, errno.ENXIO}:
                return None
            raise
    return Device(name, mac, asked=hardware == _ARPHRD_ETHER and not flags & (_IFF_LOOPBACK | _IFF_NOARP))


def read_own_macs() -> frozenset[bytes]:
    """Return the MAC addresses of all devices of this network namespace: their answers are our own."""
    found = (read_device(name) for _, name in socket.if_nameindex())
    return frozenset(device.mac for device in found if device is not None and device.asked)


def _ioctl(asker: socket.socket, question: int, name: str) -> bytes:
    return fcntl.ioctl(asker, question, struct.pack("16s24x", name.encode()))


class Port:
    """One packet socket, bound to a device and an ethertype; not blocking."""

    def __init__(self, device: str, ethertype: int, *, hears: bool = True) -> None:
        """Open it. Raises OSError: PermissionError without CAP_NET_RAW, ENODEV without the device.

        Not `hears`: for sending only, which asks nothing of the device.
        """
        # Protocol 0 until the filter is on: nothing can slip in before; for ever, if nothing is to be heard.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        try:
            if hears:
                self._prepare_to_hear(device, ethertype)
            else:
                self._socket.bind((device, 0))
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Its descriptor, for the event loop."""
        return self._socket.fileno()

    async def send(self, frames: Iterable[Frame]) -> None:
        """Send the frames in order, waiting where the device's queue is full. Raises OSError, e.g. ENETDOWN."""
        for frame in frames:
            for attempt in range(100):
                try:
                    self._socket.send(bytes(frame))
                    break
                except OSError as error:
                    if error.errno not in _FULL or attempt == 99:
                        raise
                    await asyncio.sleep(0.002)

    def receive(self) -> list[Frame]:
        """Return what has arrived, the first hundreds of it; empty when there is nothing (more)."""
        frames: list[Frame] = []
        while len(frames) < _FRAMES_AT_ONCE:
            try:
                octets = self._socket.recv(_FRAME_LIMIT)
            except BlockingIOError:
                return frames
            except OSError as error:
                if error.errno == errno.ENETDOWN:  # reported once when the device goes down
                    return frames
                raise
            frame = parse_frame(octets)
            if frame is not None:
                frames.append(frame)
        return frames

    def close(self) -> None:
        """Close the socket; safe to repeat."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare_to_hear(self, device: str, ethertype: int) -> None:
        if ethertype == ETHERTYPE_IPV6:
            self._filter()
        with suppress(PermissionError):  # without CAP_NET_ADMIN as much as everybody gets
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        self._socket.bind((device, ethertype))
        self._hear_all_multicast(device)

    def _filter(self) -> None:
        program = b"".join(struct.pack("HBBI", *instruction) for instruction in _NEIGHBOUR_ONLY)
        memory = ctypes.create_string_buffer(program)
        header = struct.pack("HL", len(_NEIGHBOUR_ONLY), ctypes.addressof(memory))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, header)

    def _hear_all_multicast(self, device: str) -> None:
        # Another machine's own search for duplicates goes to a group that this machine has not joined.
        request = struct.pack("iHH8s", socket.if_nametoindex(device), _PACKET_MR_ALLMULTI, 0, b"")
        self._socket.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, request)


def open_sender(device: str, ethertype: int) -> Port:
    """Open a Port that hears nothing. Raises OSError as Port does."""
    return Port(device, ethertype, hears=False)
