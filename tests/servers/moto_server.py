"""moto's S3 server for tests, in a thread of this process, made atomic with one lock for each path.

moto checks a condition and then puts, without a lock: two of eight conditional PUTs may win (FACTS.md). A lock around
its WSGI application, for each path, mends that. Its backends are global to the process: use fresh bucket names.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

import botocore.session
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from tests.servers.authority import LoopbackAuthority
from tests.servers.place import ServerPlace

ACCESS_KEY = "moto-test-key"
SECRET_KEY = "moto-test-secret"

_Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class LockedByPath:
    """A WSGI application whose requests to one path follow one another."""

    def __init__(self, application: _Application) -> None:
        self._application = application
        self._guard = threading.Lock()
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with self._guard:
            lock = self._locks[environ["PATH_INFO"]]
        with lock:
            return list(self._application(environ, start_response))


class _KeepAlive(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"


class MotoServer:
    """`with MotoServer() as server: server.place`. Answers about 150 requests/s; keeps everything in memory."""

    def __init__(self, *, atomic: bool = True, tls: LoopbackAuthority | None = None) -> None:
        self._atomic = atomic
        self._tls = tls
        self._server: BaseWSGIServer | None = None
        self._thread: threading.Thread | None = None
        self._bucket = f"moto-{uuid.uuid4().hex}"

    def __enter__(self) -> MotoServer:
        logging.getLogger("werkzeug").setLevel(logging.WARNING)
        application: _Application = DomainDispatcherApplication(create_backend_app)
        if self._atomic:
            application = LockedByPath(application)
        tls = self._tls.server_context() if self._tls else None
        self._server = make_server(
            "127.0.0.1", 0, application, threaded=True, request_handler=_KeepAlive, ssl_context=tls
        )
        self._server.daemon_threads = True  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, name="moto", daemon=True)
        self._thread.start()
        self.make_bucket(self._bucket)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        assert self._server is not None
        assert self._thread is not None
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def place(self) -> ServerPlace:
        assert self._server is not None
        scheme = "https" if self._tls else "http"
        return ServerPlace(f"{scheme}://127.0.0.1:{self._server.server_port}", ACCESS_KEY, SECRET_KEY, self._bucket)

    def make_bucket(self, name: str) -> None:
        session = botocore.session.Session()
        session.set_credentials(ACCESS_KEY, SECRET_KEY)
        client = session.create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.place.endpoint_url,
            verify=self._tls and str(self._tls.path),
        )
        try:
            client.create_bucket(Bucket=name)
        finally:
            client.close()
