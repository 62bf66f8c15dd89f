"""State-vector engines for diagonal costs. ``reference`` is the plain NumPy one."""
