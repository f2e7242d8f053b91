"""The fixtures of `tests.mounted`, for the tests of this folder."""

from tests.mounted import pair, root, shared_mount, shared_pair, two_mounts, volume

__all__ = ["pair", "root", "shared_mount", "shared_pair", "two_mounts", "volume"]
