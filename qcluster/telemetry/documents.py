"""JSON and YAML files with errors that name the file: topologies and job profiles come in both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qcluster.errors import FormatError

__all__ = ["read_document"]


def read_document(path: str | Path) -> Any:
    """What a JSON or YAML file holds, by its ending (.yaml and .yml are YAML).

    Raises FormatError naming the file.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise FormatError(error.strerror or "cannot be read", file=path) from None
    except UnicodeDecodeError:
        raise FormatError("is not UTF-8 text", file=path) from None
    return _yaml(text, path) if path.suffix in (".yaml", ".yml") else _json(text, path)


def _json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"is not JSON: {error}", file=path) from None


def _yaml(text: str, path: Path) -> Any:
    import yaml

    try:
        # Aliases make a short file huge when expanded, and no topology needs them.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise FormatError("uses YAML aliases, which are not taken", file=path)
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise FormatError(f"is not YAML: {' '.join(str(error).split())}", file=path) from None
