"""The parts of benchmarks/energy.py: one module a bar, each with ``run(quick, fresh)``."""
