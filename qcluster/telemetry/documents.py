"""JSON and YAML files with errors that name the file: topologies and job profiles come in both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qcluster.errors import FormatError
from qcluster.text_file import read_text

__all__ = ["read_document"]


def read_document(path: str | Path) -> Any:
    """What a JSON or YAML file holds, by its ending (.yaml and .yml are YAML).

    Raises FormatError naming the file.
    """
    path = Path(path)
    text = read_text(path)
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
