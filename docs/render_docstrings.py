"""Griffe extension: this project's docstrings as Markdown.

Sections are underlined words; their entries are ``name: text`` with indented continuations. As
Markdown they become a bold word and a list, so that shapes and units keep their own words.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Docstring, Extension, Object

UNDERLINE = re.compile(r"-{3,}\s*$")
ENTRY = re.compile(r"(?P<names>[\w*.][\w*., ]*?):\s(?P<text>.*)")


class Sections(Extension):
    """Rewrites every docstring as it is loaded."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Change the docstring of a module, class, function or attribute."""
        if isinstance(obj.docstring, Docstring):
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(text: str) -> str:
    """The docstring with its sections as bold words over lists."""
    out: list[str] = []
    lines = text.splitlines()
    inside = False
    for at, line in enumerate(lines):
        if UNDERLINE.match(line):
            continue
        if at + 1 < len(lines) and UNDERLINE.match(lines[at + 1]):
            inside = True
            out += ["", f"**{line.strip()}**", ""]
        elif inside:
            inside = entry(line, out)
        else:
            out.append(plain(line))
    return "\n".join(out)


def entry(line: str, out: list[str]) -> bool:
    """Add a line of a section; returns whether the section goes on after it."""
    if not line.strip():
        out.append("")
        return False
    if line.startswith(" "):
        out.append(f"    {line.strip()}")
        return True
    parts = re.split(r"(?<=[.;]) (?=[\w*]+: )", line)
    for part in parts:
        found = ENTRY.fullmatch(part)
        out.append(f"- `{found['names']}`: {found['text']}" if found else f"- {part}")
    return True


def plain(line: str) -> str:
    """A line outside any section; ``Raises`` written in one line gets its word in bold."""
    return re.sub(r"^Raises (?=[A-Z]\w+)", "**Raises** ", line)
