"""The part of the Container Storage Interface that this driver speaks: csi.proto, and what generate.py makes of it."""
