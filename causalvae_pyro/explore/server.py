"""The page's server: the standard library's, on the loopback only, for one person.

A framework for web applications is not worth its time here: behind a page on Gradio 6 a slider's answer took 1.7 to 2 times as
long (docs/explore.md).
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
import socket
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

from causalvae_pyro.explore.session import Session
from causalvae_pyro.utils.documents import parse_json

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
#: Seconds that a connection may be silent.
_PATIENCE = 60.0
_HEADERS = {
    # The page may not fetch anything from elsewhere, whatever it says.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "frame-ancestors 'none'; form-action 'none'",
    # No page from elsewhere may show the images, not even as images.
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Server(ThreadingHTTPServer):
    """Serves the page of a session at ``http://127.0.0.1:PORT/TOKEN/``.

    The token is random. The loopback is open to all users of the machine, so that only those who know the address may see the
    images and ask.

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
        self.session, self.token = session, secrets.token_urlsafe(16)
        try:
            super().__init__((HOST, PORT if port is None else port), _Handler)
        except OSError as error:
            if port is not None:
                raise OSError(f"port: {port} cannot be used ({error.strerror}); without --port a free one is taken") from None
            super().__init__((HOST, 0), _Handler)

    @property
    def address(self) -> str:
        """The page's address, with the token."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing on the terminal where the page was closed in the middle of an answer."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Refusal(Exception):
    """A request that gets no answer; ``unread`` where its content has not been read."""

    def __init__(self, status: HTTPStatus, reason: str, *, unread: bool = False) -> None:
        super().__init__(reason)
        self.status, self.unread = status, unread


class _Handler(BaseHTTPRequestHandler):
    server: Server
    raw_requestline: bytes
    protocol_version = "HTTP/1.1"
    # A small answer must not wait for the acknowledgement of its head.
    disable_nagle_algorithm = True
    timeout = _PATIENCE
    wbufsize = -1

    def parse_request(self) -> bool:
        """Reads the head of a request; one without a version has none, and would be waited for."""
        if len(self.raw_requestline.split()) != 2:
            return super().parse_request()
        self.requestline = self.command = ""
        self.request_version, self.close_connection = self.protocol_version, True
        self.send_error(HTTPStatus.BAD_REQUEST)
        return False

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, make: Callable[[], Any]) -> None:
        try:
            answer = make()
        except _Refusal as refusal:
            if refusal.unread:
                self._discard()
            self._send(refusal.status, {"error": str(refusal)})
        except ValueError as error:
            self._send(HTTPStatus.BAD_REQUEST, {"error": (str(error) or type(error).__name__).splitlines()[0]})
        else:
            content, kind = answer if isinstance(answer, tuple) else (answer, "application/json")
            self._send(HTTPStatus.OK, content, kind)

    def _get(self) -> Any:
        path, _ = self._asked()
        if path in _FILES:
            name, kind = _FILES[path]
            return resources.files(__package__).joinpath("page", name).read_bytes(), kind
        if path == "/state":
            return self.server.session.describe()
        if found := re.fullmatch(r"/thumbnails/([0-9]{1,18})", path):
            return self.server.session.thumbnail(int(found[1])), "image/png"
        raise _Refusal(HTTPStatus.NOT_FOUND, f"there is no {path} here")

    def _post(self) -> Any:
        path, query = self._asked()
        content, session = self._content(), self.server.session
        if path == "/answer":
            return session.answer(_json(content))
        if path == "/picture":
            return session.picture(_json(content)), "image/png"
        if path == "/sweep":
            return session.sweep(_json(content))
        if path == "/effects":
            return session.effects(_json(content))
        if path == "/animation":
            return session.animation(_json(content))
        if path == "/image":
            return session.add_image(content, parse_qs(query).get("name", ["image"])[0])
        raise _Refusal(HTTPStatus.NOT_FOUND, f"there is no {path} here")

    def _asked(self) -> tuple[str, str]:
        """Path, below the token, and query of a request that may be answered."""
        try:
            parts = urlsplit(self.path)
        except ValueError:
            raise _Refusal(HTTPStatus.BAD_REQUEST, "the address is malformed", unread=True) from None
        if not self._is_ours():
            raise _Refusal(HTTPStatus.FORBIDDEN, "cross-origin request refused", unread=True)
        token, slash, below = parts.path.removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            raise _Refusal(HTTPStatus.FORBIDDEN, "open the whole address that causalvae explore has printed", unread=True)
        return slash + below, parts.query

    def _content(self) -> bytes:
        lengths = self.headers.get_all("Content-Length", [])
        if len(lengths) != 1 or not re.fullmatch("[0-9]{1,18}", lengths[0]) or "Transfer-Encoding" in self.headers:
            raise _Refusal(HTTPStatus.BAD_REQUEST, "expected one Content-Length, and so many bytes", unread=True)
        if (length := int(lengths[0])) > _LARGEST:
            reason = f"image: files of up to {_LARGEST // 2**20} MiB can be dropped here"
            raise _Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, reason, unread=True)
        return self.rfile.read(length)

    def _discard(self) -> None:
        """Ends the connection after this answer: what is unread would be taken for the next request."""
        self.close_connection = True
        length = self.headers.get("Content-Length", "")
        # A connection that is closed with bytes unread may lose the answer. Large ones have not been sent yet.
        if re.fullmatch("[0-9]{1,5}", length):
            self.rfile.read(int(length))

    def _is_ours(self) -> bool:
        """Refuses pages from elsewhere that a browser shows, under whatever name they reach the loopback."""
        hosts = {f"{name}:{self.server.server_port}" for name in (HOST, "localhost")}
        origin = self.headers.get("Origin")
        host = self.headers.get_all("Host", [])
        return len(host) == 1 and host[0] in hosts and (origin is None or origin.removeprefix("http://") in hosts)

    def end_headers(self) -> None:
        """Ends the head of every answer, those of malformed requests too."""
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def _send(self, status: HTTPStatus, content: Any, kind: str = "application/json") -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except ConnectionError:
            # The page is closed or asks something else by now.
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal for every move of a slider."""


def _json(content: bytes) -> Any:
    try:
        return parse_json(content)
    except ValueError:
        raise ValueError("question: is no JSON") from None
