"""A web server on loopback that serves bytes, with ranges, and fails on request."""

import gzip
import threading
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class FileServer:
    """Serves ``files`` (path to content). ``cut_after`` ends the next answer after so many bytes; a server that
    ``compresses`` does so for whoever accepts it.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []  # path and Range header
        self.cut_after: int | None = None
        self.compresses = False
        self.tells_length = True
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/{path}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.requests.append((request.path, wanted))
        content = self.files.get(request.path.lstrip("/"))
        if content is None:
            request.send_error(404)
            return
        tag = f'"{sha256(content).hexdigest()}"'
        start = 0
        if wanted and request.headers.get("If-Range") == tag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                request.send_error(416)
                return
        request.send_response(206 if start else 200)
        if self.compresses and "gzip" in request.headers.get("Accept-Encoding", ""):
            content = gzip.compress(content)
            request.send_header("Content-Encoding", "gzip")
        if self.tells_length:
            request.send_header("Content-Length", str(len(content) - start))
        request.send_header("ETag", tag)
        request.end_headers()
        stop = len(content) if self.cut_after is None else start + self.cut_after
        self.cut_after = None
        request.wfile.write(content[start:stop])
        request.close_connection = True


@pytest.fixture
def file_server() -> Iterator[FileServer]:
    server = FileServer()
    yield server
    server.server.shutdown()
    server.server.server_close()
