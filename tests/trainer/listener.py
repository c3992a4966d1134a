"""A peer of the progress protocol that keeps what was posted."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


class Listener(HTTPServer):
    """Keeps what was posted."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.posts: list[tuple[str | None, dict[str, Any]]] = []
        self.refuses = ""
        """A body with this key is answered by 400."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/namespaces/lab/status"


class _Handler(BaseHTTPRequestHandler):
    server: Listener

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        told = json.loads(body)
        self.server.posts.append((self.headers["Authorization"], told))
        self.send_response(400 if self.server.refuses in told else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def listening() -> Iterator[Listener]:
    """Serve until left."""
    server = Listener()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
