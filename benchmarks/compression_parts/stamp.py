"""Which code a figure was measured on."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

import qcluster


@cache
def code_stamp() -> str:
    """A digest of what the codec's modules do: changed comments and descriptions leave it alone."""
    hasher = hashlib.sha256()
    root = Path(qcluster.__file__).parent
    for room in ("codec", "q_compressor", "q_decompressor"):
        for path in sorted((root / room).glob("*.py")):
            tree = ast.parse(path.read_text())
            for node in ast.walk(tree):
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (
                    ast.get_docstring(node, clean=False) is not None
                ):
                    node.body = node.body[1:]
            hasher.update(f"{room}/{path.name}\n{ast.dump(tree)}".encode())
    return hasher.hexdigest()[:16]
