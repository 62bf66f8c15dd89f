"""Compiled list scheduling, see ``_kernels``."""
