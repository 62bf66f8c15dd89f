"""Parts of ``benchmarks/control_plane.py``: each measures one thing that a cluster does to us."""
