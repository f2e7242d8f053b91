"""Where a workspace is: the one topology key of this driver, whose value stands for a node. Pure.

The kubelet makes a label of the node of it, so the value is held to what labels may be; a node's name may be longer.
"""

from __future__ import annotations

import base64
import hashlib
import re

TOPOLOGY_KEY = "topology.csi.s3vfs.io/node"

NODE_ID_LIMIT_BYTES = 256  # CSI, NodeGetInfoResponse

_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_HASHED = "n-"


def topology_value(node_id: str) -> str:
    """The node's name where that can be a label's value, else a hash of it."""
    if _LABEL.fullmatch(node_id) and not node_id.startswith(_HASHED):
        return node_id
    return _HASHED + base64.b32encode(hashlib.sha256(node_id.encode()).digest())[:26].decode().lower()
