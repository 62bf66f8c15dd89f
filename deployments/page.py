"""Where the page's files are, and the headers that they are sent with.

Apart from the API so that tests and tools can use both without loading any planner.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["CSP", "UI"]

UI = Path(__file__).resolve().parent / "ui"

# Everything comes from the server itself: no inline script or style, nothing from elsewhere.
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; font-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
