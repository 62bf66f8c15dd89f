"""The page as a set of files in memory: what is served under ``/`` and ``/ui/``, and its headers.

Knows nothing of HTTP servers: a server asks ``page_file(path)`` and sends what it gets.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CSP", "PAGE_HEADERS", "PageFile", "page_file", "page_files"]

ROOT = Path(__file__).parent / "ui"

# Everything comes from the server itself: no inline script or style, nothing from elsewhere.
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; font-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
PAGE_HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Browsers ask again each time and get 304 by the ETag: an upgraded server is never seen
    # through a mix of old and new modules.
    "Cache-Control": "no-cache",
}
# Written out because the system's own table differs from machine to machine.
_MEDIA = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".LICENSE": "text/plain; charset=utf-8",
}


@dataclass(frozen=True)
class PageFile:
    """One file: its bytes, media type and strong ETag (quoted SHA-256, 16 hex digits)."""

    body: bytes
    media_type: str
    etag: str


@functools.cache
def page_files() -> dict[str, PageFile]:
    """All files by URL path, ``/`` being the index; about 1 MB, read once.

    Only what stands here is served, so no path can lead out of the directory.
    """
    files: dict[str, PageFile] = {}
    for path in sorted(ROOT.rglob("*")):
        media = _MEDIA.get(path.suffix)
        if path.is_file() and media is not None:
            body = path.read_bytes()
            etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
            files[f"/ui/{path.relative_to(ROOT).as_posix()}"] = PageFile(body, media, etag)
    files["/"] = files["/ui/index.html"]
    return files


def page_file(path: str) -> PageFile | None:
    """The file at a URL path, or None."""
    return page_files().get(path)
