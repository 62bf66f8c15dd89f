"""The example of the client's page runs as written, against a real server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from servers import Server

PAGE = Path(__file__).parents[2] / "docs" / "client.md"

pytestmark = pytest.mark.ray


def test_the_example_runs_to_its_end(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```py\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert "http://127.0.0.1:8000" in code
    here = code.replace("http://127.0.0.1:8000", server.url)
    names: dict[str, object] = {"__name__": "example"}
    exec(compile(here, "client.md", "exec"), names)
    said = capsys.readouterr().out.splitlines()
    assert said[0].split()[1] in ("True", "False")  # the plan's objective, and whether it is stale
    assert said[-1].startswith("plan ")
