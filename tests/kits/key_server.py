"""An identity provider's JWK Set over real HTTP, in a thread; what it answers may be changed at any time."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


class KeyServer:
    """`document`: the set. `answer`: (status, body, headers) instead of it. `requests`: how many came, `followed`: of them
    by the redirect of `answer`."""

    def __init__(self, document: bytes) -> None:
        self.document = document
        self.answer: tuple[int, bytes, dict[str, str]] | None = None
        self.requests = self.followed = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests += 1
                outer.followed += "again" in self.path
                status, body, headers = outer.answer or (200, outer.document, {})
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/jwks"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def close(self) -> None:
        """From now on connections are refused."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def __exit__(self, *_: object) -> None:
        self.close()
