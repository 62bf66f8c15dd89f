"""Every example in the documentation runs as written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
README = ROOT / "README.md"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def with_blocks(language: str) -> list[Path]:
    return [page for page in PAGES if blocks(page, language)]


@pytest.mark.parametrize("page", [README, *with_blocks("python")], ids=lambda page: page.stem)
def test_python_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "example"}
    for number, code in enumerate(blocks(page, "python"), 1):
        exec(compile(code, f"{page.name} block {number}", "exec"), names)
    assert capsys.readouterr().out


@pytest.mark.parametrize("page", with_blocks("sh"), ids=lambda page: page.stem)
def test_shell_runs(page, tmp_path):
    qcluster = tmp_path / "bin" / "qcluster"
    qcluster.parent.mkdir()
    qcluster.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m qcluster "$@"\n')
    qcluster.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{qcluster.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    for code in blocks(page, "sh"):
        done = subprocess.run(
            ["bash", "-euc", code],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            check=False,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_links_lead_to_pages():
    for page in [*PAGES, *(ROOT / "docs" / "reference").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).is_file(), f"{page.name}: {target}"


def test_navigation_names_every_page():
    nav = (ROOT / "mkdocs.yml").read_text()
    for page in [*PAGES, *(ROOT / "docs" / "reference").glob("*.md")]:
        assert page.relative_to(ROOT / "docs").as_posix() in nav, page


def test_files_that_the_architecture_names_exist():
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(r"`((?:qcluster|actors|deployments|tests)/[\w/.]+)`", text)
    assert len(named) > 8
    for name in named:
        assert (ROOT / name).exists(), name
