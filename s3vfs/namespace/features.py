"""Feature bits (docs/format.md, section 5): rules that a volume has only once a FEATURE op has switched them on.

A volume, record or checkpoint with a bit that this program lacks is not for it (R3).
"""

from __future__ import annotations

LEASES = 0  # bit numbers, as FEATURE names them
LOCKS = 1

KNOWN_FEATURES = 1 << LEASES | 1 << LOCKS  # as masks, in the volume's row, record headers, HEAD and manifests
