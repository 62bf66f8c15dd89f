"""Parts of benchmarks/quantum.py."""
