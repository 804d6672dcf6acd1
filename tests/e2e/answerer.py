"""A web server for the end-to-end tests: answers every GET with its name, on all the ports that it is told.

    python answerer.py NAME PORT [PORT ...]

`GET /slow/SECONDS` answers after that many seconds; `GET /peer` answers with the address that it was asked from; a
connection stays open for further requests (HTTP/1.1), so that long-lived connections can be tested.
"""

import socket
import sys
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class Answer(BaseHTTPRequestHandler):
    """Answers with the server's name."""

    protocol_version = "HTTP/1.1"
    name = ""

    def do_GET(self) -> None:
        """One line of text."""
        if self.path.startswith("/slow/"):
            time.sleep(float(self.path.removeprefix("/slow/")))
        said = self.client_address[0] if self.path == "/peer" else self.name
        body = f"{said}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing on stderr."""


class DualStack(ThreadingHTTPServer):
    """Listens on IPv6 and IPv4."""

    address_family = socket.AF_INET6
    request_queue_size = 1024
    daemon_threads = True

    def server_bind(self) -> None:
        """Also take IPv4."""
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def main(arguments: Sequence[str]) -> None:
    """Serve until ended."""
    Answer.name = arguments[0]
    servers = [DualStack(("::", int(port)), Answer) for port in arguments[1:]]
    for server in servers[1:]:
        Thread(target=server.serve_forever, daemon=True).start()
    servers[0].serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
