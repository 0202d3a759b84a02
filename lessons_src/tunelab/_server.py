"""A server that a notebook starts and stops: werkzeug's own, on this machine alone."""

from __future__ import annotations

import atexit
import threading

from flask import Flask
from werkzeug.serving import WSGIRequestHandler, make_server

LOOPBACK = "127.0.0.1"


class Server:
    """An app that listens on a port of this machine, in a thread, until it is stopped."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self._server = make_server(LOOPBACK, 0, app, threaded=True, request_handler=_Handler)
        self._server.daemon_threads = False  # so that closing waits for the answers that are being written
        self.url = f"http://{LOOPBACK}:{self._server.server_port}"
        # A daemon, or a notebook's kernel that is shut down would wait for it for ever; it is stopped at the exit instead.
        name = f"server-{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, name=name, daemon=True)
        self._thread.start()
        atexit.register(self.stop)

    def stop(self) -> None:
        """Answers what was asked, then lets go of port, threads, job and store; harmless when called twice."""
        atexit.unregister(self.stop)
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.app.extensions["tunelab"].close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.0"  # a connection that is kept would keep its thread
    timeout = 10  # seconds that a client may be silent
    # What is refused before the app sees it (no HTTP, a path or headers that are too long), in the form of its refusals.
    error_content_type = "application/json"
    error_message_format = (
        '{"error": {"code": "bad_request", "message": "%(explain)s: send a well-formed, shorter request"}}'
    )

    def log_request(self, *_: object) -> None:
        """Nothing: a notebook's output is the lesson's."""
