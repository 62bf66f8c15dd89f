"""MkDocs hook: the claims page takes in the rows that each room keeps under ``docs/claims/``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

MARK = "<!-- rows -->"
ROWS = Path(__file__).parent / "claims"


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Put every file of ``docs/claims/`` under a heading of its own, in order of name."""
    if page.file.src_uri != "claims.md":
        return markdown
    parts = [section(path) for path in sorted(ROWS.glob("*.md"))]
    return markdown.replace(MARK, "\n\n".join(parts))


def section(path: Path) -> str:
    """One room's rows; a title of its own gives way to the page's."""
    lines = path.read_text(encoding="utf-8").strip().splitlines()
    if lines and lines[0].startswith("# "):
        title, lines = lines[0][2:], lines[1:]
    else:
        title = path.stem.replace("_", " ").capitalize()
    body = [f"#{line}" if line.startswith("#") else line for line in lines]
    return "\n".join([f"## {title}", "", *body])
