"""`python -m csi.proto.generate` makes csi_pb2.py and csi_pb2.pyi from csi.proto. Needs grpcio-tools (extra `test`).

The results are checked in, so that running the driver needs no compiler; a test compares them with csi.proto. No gRPC
code is generated: csi/server.py takes the services from the descriptors.
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

PROTO = Path(__file__).with_name("csi.proto")
_ROOT = PROTO.parent.parent.parent  # modules are named by their path from here


def compile_proto(*outputs: str) -> None:
    """Run protoc on csi.proto with these output options. Raises RuntimeError when it refuses."""
    from grpc_tools import protoc  # late: not needed to run the driver

    include = str(files("grpc_tools") / "_proto")
    if protoc.main(["protoc", f"-I{_ROOT}", f"-I{include}", *outputs, str(PROTO)]):
        raise RuntimeError(f"protoc refuses {PROTO}")


if __name__ == "__main__":
    compile_proto(f"--python_out={_ROOT}", f"--pyi_out={_ROOT}")
    sys.stdout.write(f"wrote csi_pb2.py and csi_pb2.pyi in {PROTO.parent}\n")
