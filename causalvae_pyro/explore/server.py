"""The page's server: the standard library's, on the loopback only, for one person.

A framework for web applications is not worth its time here: behind a page on Gradio 6 a slider's answer took 1.7 to 2 times as
long (docs/explore.md).
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from causalvae_pyro.explore.session import Session

__all__ = ["HOST", "PORT", "Server"]

HOST = "127.0.0.1"
#: Where the page is by default, if nothing else is there.
PORT = 7860

_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
#: The largest image file that is taken, in bytes.
_LARGEST = 32 * 2**20
_HEADERS = {
    # The page may not fetch anything from elsewhere, whatever it says.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Server(ThreadingHTTPServer):
    """Serves the page of a session at ``http://127.0.0.1:PORT/``.

    Args:
        session: What answers.
        port: The port; 0 for any free one; ``None`` for 7860, or any free one where that is taken.

    Raises:
        ValueError: If the port is out of range.
        OSError: If the port is in use or may not be used.
    """

    daemon_threads = True
    # On Linux this is about connections of a server that has ended; elsewhere it would let two servers share a port.
    allow_reuse_address = hasattr(socket, "SO_REUSEPORT")
    allow_reuse_port = False

    def __init__(self, session: Session, port: int | None = None) -> None:
        if port is not None and not 0 <= port <= 65535:
            raise ValueError(f"port: got {port}; must lie between 0 and 65535")
        self.session = session
        try:
            super().__init__((HOST, PORT if port is None else port), _Handler)
        except OSError as error:
            if port is not None:
                raise OSError(f"port: {port} cannot be used ({error.strerror}); without --port a free one is taken") from None
            super().__init__((HOST, 0), _Handler)

    @property
    def address(self) -> str:
        """The page's address."""
        return f"http://{HOST}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    # A small answer must not wait for the acknowledgement of its head.
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path in _FILES:
            name, kind = _FILES[path]
            self._reply(lambda: (resources.files(__package__).joinpath("page", name).read_bytes(), kind))
        elif path == "/state":
            self._reply(lambda: self.server.session.describe())
        elif path.startswith("/thumbnails/") and path.removeprefix("/thumbnails/").isdecimal():
            index = int(path.removeprefix("/thumbnails/"))
            self._reply(lambda: (self.server.session.thumbnail(index), "image/png"))
        else:
            self._send(HTTPStatus.NOT_FOUND, {"error": f"there is no {path} here"})

    def do_POST(self) -> None:
        parts = urlsplit(self.path)
        content = self._content()
        if content is None:
            return
        session = self.server.session
        if parts.path == "/answer":
            self._reply(lambda: session.answer(_json(content)))
        elif parts.path == "/picture":
            self._reply(lambda: (session.picture(_json(content)), "image/png"))
        elif parts.path == "/image":
            name = unquote(parse_qs(parts.query).get("name", ["image"])[0])
            self._reply(lambda: session.add_image(content, name))
        else:
            self._send(HTTPStatus.NOT_FOUND, {"error": f"there is no {parts.path} here"})

    def _content(self) -> bytes | None:
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            length = -1
        if 0 <= length <= _LARGEST:
            return self.rfile.read(length)
        # What was not read would be taken for the next request.
        self.close_connection = True
        self._send(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": f"image: files of up to {_LARGEST // 2**20} MiB can be dropped here"}
        )
        return None

    def _reply(self, make: Callable[[], Any]) -> None:
        if not self._is_ours():
            self._send(HTTPStatus.FORBIDDEN, {"error": "cross-origin request refused"})
            return
        try:
            answer = make()
        except ValueError as error:
            self._send(HTTPStatus.BAD_REQUEST, {"error": str(error).splitlines()[0]})
            return
        content, kind = answer if isinstance(answer, tuple) else (answer, "application/json")
        self._send(HTTPStatus.OK, content, kind)

    def _is_ours(self) -> bool:
        """Refuses pages from elsewhere that a browser shows, under whatever name they reach the loopback."""
        hosts = {f"{name}:{self.server.server_port}" for name in (HOST, "localhost")}
        origin = self.headers.get("Origin")
        return self.headers.get("Host") in hosts and (origin is None or origin.removeprefix("http://") in hosts)

    def _send(self, status: HTTPStatus, content: Any, kind: str = "application/json") -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        try:
            self.send_response(status)
            for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        except ConnectionError:
            # The page is closed or asks something else by now.
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal for every move of a slider."""


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        raise ValueError("question: is no JSON") from None
