"""The page of a run while it trains: redrawn when there is something new, for this machine alone.

    with live.server(run_dir, port=8000) as server:
        server.serve_forever()

The page refreshes itself. It is the only thing that is served, under the address `/`, and nothing
is written to the disk.
"""

import http.server
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any

from experiments.analysis.history import History
from experiments.pages import figures, run_page
from pbt import store as stores

ADDRESS = "127.0.0.1"
"""The loopback address, which other machines cannot reach."""
REFRESH_S = 30
"""Seconds between two looks of the browser, and least seconds between two drawings."""
_TIMEOUT_S = 10.0
"""Seconds after which a client that sends nothing is left, since clients wait for each other."""


class LivePage:
    """The page of a run, drawn anew at most every `REFRESH_S` seconds.

    Args:
        run_dir: The run, which may be training.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._text = ""
        self._drawn_s = 0.0  # monotonic
        self._versions: list[tuple[int, int]] = []

    def text(self) -> str:
        """Return the page.

        Raises:
            pbt.store.StoreError: The run cannot be read.
        """
        if self._text and time.monotonic() - self._drawn_s < REFRESH_S:
            return self._text
        with stores.Store.open(self._run_dir) as store:
            versions = [(member.id, member.version) for member in store.members()]
            if not self._text or versions != self._versions:
                history = History.read(store, self._run_dir.resolve().name)
                drawn = figures.figures(history) if history.reports else {}
                self._text = run_page.page(history, self._run_dir, drawn, REFRESH_S)
                self._versions = versions
        self._drawn_s = time.monotonic()
        return self._text


def server(run_dir: Path, port: int) -> http.server.HTTPServer:
    """Return a server of a run's page on the loopback address.

    Args:
        run_dir: The run.
        port: Port to listen on. 0 takes a free one.

    Raises:
        OSError: The port is taken.
        OverflowError: There is no such port.
    """
    page = LivePage(run_dir)

    class Handler(http.server.BaseHTTPRequestHandler):
        """Answer requests for the page, and refuse all others."""

        timeout = _TIMEOUT_S

        def do_GET(self) -> None:
            # A page of elsewhere may have its own name resolved to this machine, to read what is
            # here. Its requests name that host.
            host = (self.headers.get("Host") or "").partition(":")[0]
            if host not in (ADDRESS, "localhost"):
                return self.send_error(HTTPStatus.FORBIDDEN)
            if self.path != "/":
                return self.send_error(HTTPStatus.NOT_FOUND)
            try:
                body = page.text().encode()
            except stores.StoreError as error:
                return self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, explain=str(error))
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return http.server.HTTPServer((ADDRESS, port), Handler)
