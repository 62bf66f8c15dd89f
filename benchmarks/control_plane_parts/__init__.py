"""Parts of ``benchmarks/control_plane.py``."""
