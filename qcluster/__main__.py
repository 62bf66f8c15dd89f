"""``python -m qcluster`` and ``python qcluster/__main__.py``: the command line."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    if not __package__:
        # Run as a file: Python put this folder on the path, where the package is not to be found.
        sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from qcluster.cli import main

    sys.exit(main())
