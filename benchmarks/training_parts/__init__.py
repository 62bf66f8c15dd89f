"""Parts of ``benchmarks/training.py``: one module a bar."""
