"""The gRPC side: services from descriptors, refusals to status codes, a log line for a call, one operation a volume.

A method that a servicer does not have is answered UNIMPLEMENTED by gRPC.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import message_factory

from csi.proto import csi_pb2
from csi.refusals import Code, Refusal, from_error, invalid
from s3vfs.errors import S3vfsError

_log = logging.getLogger(__name__)

# Calls wait for the bucket, not for the processor; many volumes of one node start at the same time.
THREADS = 32

_UNIX = "unix://"


class InFlight:
    """One operation a volume: the second is refused at once, the orchestrator comes again (CSI, "Concurrency")."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy: set[str] = set()

    @contextlib.contextmanager
    def only(self, key: str) -> Iterator[None]:
        """Raises Refusal with ABORTED while another thread is inside with the same key."""
        with self._lock:
            if key in self._busy:
                raise Refusal(Code.ABORTED, f"an operation on {key!r} is under way")
            self._busy.add(key)
        try:
            yield
        finally:
            with self._lock:
                self._busy.discard(key)


def socket_of(endpoint: str) -> Path:
    """The socket's path. Raises ValueError for anything but unix:///path or /path."""
    path = endpoint.removeprefix(_UNIX)
    if not path.startswith("/"):
        raise ValueError(f"{endpoint!r} is no endpoint: write unix:///csi/csi.sock")
    return Path(path)


def start_server(socket: Path, servicers: dict[str, Any]) -> grpc.Server:
    """Serve `servicers` (service name -> object with a method for each RPC) on a socket that is readable by root only.

    A socket that a killed driver left behind is replaced. Raises OSError, RuntimeError where it cannot be bound.
    """
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.lstat(socket).st_mode):
            os.unlink(socket)
    server = grpc.server(ThreadPoolExecutor(THREADS, "rpc"), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers(tuple(_service(name, servicer) for name, servicer in servicers.items()))
    server.add_insecure_port(f"{_UNIX}{socket}")
    os.chmod(socket, 0o600)
    server.start()
    return server


def _service(name: str, servicer: Any) -> grpc.GenericRpcHandler:
    descriptor = csi_pb2.DESCRIPTOR.services_by_name[name]
    handlers = {}
    for method in descriptor.methods:
        behaviour = getattr(servicer, method.name, None)
        if behaviour is not None:
            handlers[method.name] = grpc.unary_unary_rpc_method_handler(
                _answering(method.name, behaviour),
                request_deserializer=message_factory.GetMessageClass(method.input_type).FromString,
                response_serializer=lambda message: message.SerializeToString(),
            )
    return grpc.method_handlers_generic_handler(descriptor.full_name, handlers)


def _answering(name: str, behaviour: Callable[[Any], Any]) -> Callable[[Any, grpc.ServicerContext], Any]:
    """`behaviour`, with its refusals as status codes. What it logs holds no secret: names, codes and its own lines."""

    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        began_s = time.monotonic()
        volume = getattr(request, "volume_id", "") or getattr(request, "name", "")
        try:
            response = behaviour(request)
        except (Refusal, S3vfsError) as error:
            refusal = error if isinstance(error, Refusal) else from_error(error)
            _note(name, volume, refusal.code.value, began_s, refusal.message)
            context.abort(grpc.StatusCode[refusal.code.value], refusal.message)
        except Exception as error:
            _log.exception("a bug", extra={"rpc": name, "volume_id": volume})
            context.abort(
                grpc.StatusCode.INTERNAL, f"{type(error).__name__}, please report it: the driver's log has more"
            )
        else:
            _note(name, volume, "OK", began_s, "")
            return response

    return answer


# Sidecars and the kubelet ask these all the time.
_QUIET = frozenset(
    ["Probe", "GetPluginInfo", "GetPluginCapabilities", "NodeGetCapabilities", "ControllerGetCapabilities"]
)


def _note(name: str, volume: str, code: str, began_s: float, message: str) -> None:
    level = logging.WARNING if message else logging.DEBUG if name in _QUIET else logging.INFO
    duration_ms = round((time.monotonic() - began_s) * 1000)
    _log.log(level, message or "done", extra={"rpc": name, "volume_id": volume, "code": code, "ms": duration_ms})


def required(value: str, what: str) -> str:
    """Raises Refusal where a required string is empty."""
    if not value:
        raise invalid(f"{what} is missing")
    return value
