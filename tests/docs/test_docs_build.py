"""The two small modules that the documentation is built with."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page(path: str) -> SimpleNamespace:
    return SimpleNamespace(file=SimpleNamespace(src_uri=path))


@pytest.fixture
def claims(tmp_path):
    module = load("include_claims")
    module.ROWS = tmp_path
    return module


def test_rooms_rows_come_in_order_of_name(claims, tmp_path):
    (tmp_path / "b_room.md").write_text("| claim | measured |\n")
    (tmp_path / "a.md").write_text("# Power\n\n## Budget\n\ntext\n")
    text = claims.on_page_markdown(f"# Claims\n\n{claims.MARK}\n", page=page("claims.md"))
    assert text.index("## Power") < text.index("### Budget") < text.index("## B room")
    assert "| claim | measured |" in text
    assert claims.MARK not in text


def test_other_pages_stay_as_they_are(claims):
    assert claims.on_page_markdown(claims.MARK, page=page("index.md")) == claims.MARK


def test_the_claims_page_has_the_mark():
    assert load("include_claims").MARK in (DOCS / "claims.md").read_text()


TEXT = """A sum.

Parameters
----------
load: (layers, experts), any count: the
    more the better. speed: relative. alive: (n,).

Raises
------
InputError: bad.

Raises InputError in one line.
Formula: a: b stays."""


def test_docstrings_become_lists():
    pytest.importorskip("griffe", reason="needs the docs extra")
    text = load("render_docstrings").markdown(TEXT)
    assert "**Parameters**" in text
    assert "----" not in text
    assert "- `load`: (layers, experts), any count: the\n    more the better." in text
    assert "- `InputError`: bad." in text
    assert "**Raises** InputError in one line." in text
    assert "Formula: a: b stays." in text
