"""Fixtures that every room shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real measured data, kept outside the repository."""
    path = Path(os.environ.get("QCLUSTER_DATA") or ROOT.parent / "shared" / "data")
    if not path.is_dir():
        pytest.skip("shared data not found: set QCLUSTER_DATA")
    return path
