"""Parts of benchmarks/nvlink.py, and the script that makes the shipped weights."""
