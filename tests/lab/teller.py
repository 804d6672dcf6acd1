"""A server for packet tests: tells who was asked and who asked, over TCP and UDP, on all the ports that it is told.

    python teller.py PORT [FIRST-LAST ...]

The answer is `ADDRESS PORT CLIENT`, as the server sees them, to a TCP connection and to each datagram. After that a
connection echoes. IPv4 and IPv6, all addresses of the machine.
"""

import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from ipaddress import IPv6Address
from threading import Thread


def plain(text: str) -> str:
    """Write an IPv4 address as one."""
    address = IPv6Address(text.partition("%")[0])
    return str(address.ipv4_mapped or address)


def dual_stack(kind: int, port: int) -> socket.socket:
    """A socket of both families."""
    made = socket.socket(socket.AF_INET6, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    made.bind(("::", port))
    return made


def converse(sock: socket.socket) -> None:
    """Tell, then echo to the end."""
    with sock, suppress(OSError):  # a test may reset its connection
        address, port, *_ = sock.getsockname()
        sock.sendall(f"{plain(address)} {port} {plain(sock.getpeername()[0])}\n".encode())
        while chunk := sock.recv(1 << 16):
            sock.sendall(chunk)


def serve_tcp(listener: socket.socket) -> None:
    """A thread for each connection."""
    while True:
        sock, _ = listener.accept()
        Thread(target=converse, args=(sock,), daemon=True).start()


def serve_udp(sock: socket.socket, port: int) -> None:
    """Answer from the address that was asked (RFC 3542)."""
    while True:
        _, ancillary, _, client = sock.recvmsg(2048, 128)
        packet_info = next(value for _, kind, value in ancillary if kind == socket.IPV6_PKTINFO)
        asked = socket.inet_ntop(socket.AF_INET6, packet_info[:16])
        told = f"{plain(asked)} {port} {plain(client[0])}\n".encode()
        control = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, packet_info[:16] + struct.pack("@I", 0))
        sock.sendmsg([told], [control], 0, client)


def ports(words: Sequence[str]) -> Iterator[int]:
    """Ports and ranges of ports."""
    for word in words:
        first, _, last = word.partition("-")
        yield from range(int(first), int(last or first) + 1)


def main(words: Sequence[str]) -> None:
    """Serve until ended."""
    threads = []
    for port in ports(words):
        listener = dual_stack(socket.SOCK_STREAM, port)
        listener.listen(1024)
        datagrams = dual_stack(socket.SOCK_DGRAM, port)
        datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        threads += [
            Thread(target=serve_tcp, args=(listener,), daemon=True),
            Thread(target=serve_udp, args=(datagrams, port), daemon=True),
        ]
    for thread in threads:
        thread.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1:])
