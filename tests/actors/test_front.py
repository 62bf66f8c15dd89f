"""HAProxy's stand-in: what it puts right in Ray's configuration, and when it ends."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from servers import free_port

from actors.front import front_environment, haproxy_binary

needs_haproxy = pytest.mark.skipif(haproxy_binary() is None, reason="Ray brings no HAProxy here")


def test_without_haproxy_nothing_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "0")
    assert haproxy_binary() is None
    assert front_environment(tmp_path / "front") == {}
    assert not (tmp_path / "front").exists()


@needs_haproxy
def test_ports_and_files_are_its_own(tmp_path: Path) -> None:
    first, second = (front_environment(tmp_path / name) for name in "ab")
    for name in ("METRICS_PORT", "STATS_PORT", "CONFIG_FILE_LOC", "SOCKET_PATH"):
        assert first[f"RAY_SERVE_HAPROXY_{name}"] != second[f"RAY_SERVE_HAPROXY_{name}"]


@needs_haproxy
def test_users_own_settings_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_HAPROXY_STATS_PORT", "1234")
    assert front_environment(tmp_path)["RAY_SERVE_HAPROXY_STATS_PORT"] == "1234"


@needs_haproxy
def test_rays_own_configuration_is_put_right(tmp_path: Path) -> None:
    from ray.serve._private import haproxy_templates

    script = front_environment(tmp_path / "front")["RAY_SERVE_HAPROXY_BINARY_PATH"]
    # Still as we know it: the lines that the script rewrites are in this Ray's template.
    template = haproxy_templates.HAPROXY_CONFIG_TEMPLATE
    for line in (
        "bind :{{ config.metrics_port }}",
        "bind *:{{ config.stats_port }}",
        "errorfile 503",
        '    http-request return status 404 content-type text/plain lf-string "Path ',
        "    option log-health-checks\n",
    ):
        assert line in template
    config = tmp_path / "x.cfg"
    config.write_text(
        "defaults\n    mode http\n    timeout connect 1s\n    timeout client 1s\n"
        "    timeout server 1s\n    option log-health-checks\n    errorfile 503 /nowhere.http\n"
        "frontend a\n    bind :20001\nfrontend b\n    bind 127.0.0.1:20002\n"
        "    default_backend none\nlisten stats\n  bind *:20003\n"
        "backend none\n"
        '    http-request return status 404 content-type text/plain lf-string "Path x"\n'
    )
    checked = subprocess.run(
        [script, "-c", "-f", str(config)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    text = config.read_text()
    assert "bind 127.0.0.1:20001\n" in text
    assert "bind 127.0.0.1:20002\n" in text
    assert "bind 127.0.0.1:20003\n" in text
    assert "errorfile" not in text
    assert "http-request return status 503 hdr Retry-After 1\n" in text
    assert "timeout http-request 20s" in text


def listening(port: int) -> list[int]:
    """Processes that listen on a port."""
    return [
        one.pid or 0
        for one in psutil.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN and one.laddr.port == port
    ]


def until(condition: Callable[[], Any]) -> Any:
    ends = time.monotonic() + 30
    while not (found := condition()):
        assert time.monotonic() < ends
        time.sleep(0.02)
    return found


@needs_haproxy
def test_another_stands_in_for_one_that_was_killed(tmp_path: Path) -> None:
    script = front_environment(tmp_path / "front")["RAY_SERVE_HAPROXY_BINARY_PATH"]
    config, port = tmp_path / "x.cfg", free_port()
    config.write_text(
        f"global\n    stats socket {tmp_path}/admin.sock mode 600 level admin\n"
        "defaults\n    mode http\n    timeout connect 1s\n    timeout client 1s\n"
        f"    timeout server 1s\nfrontend a\n    bind 127.0.0.1:{port}\n"
        "    http-request return status 200\n"
    )
    command = [script, "-db", "-f", str(config), "-dR"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as first:
        until(lambda: listening(port) == [first.pid])
        first.kill()
    (stand_in,) = until(lambda: listening(port))
    assert stand_in != first.pid
    psutil.Process(stand_in).kill()
    (again,) = until(lambda: [pid for pid in listening(port) if pid != stand_in])
    # Ray starts the next one: the stand-in goes, and comes no more.
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as second:
        until(lambda: listening(port) == [second.pid])
        until(lambda: not psutil.pid_exists(again))
        # So does one that hands over to a successor, as when Ray changes its configuration.
        with subprocess.Popen([*command, "-sf", str(second.pid)]) as third:
            until(lambda: second.poll() is not None)
            until(lambda: listening(port) == [third.pid])
            (tmp_path / "front" / "current.pid").write_text("0")  # nobody is to follow
            third.kill()
    until(lambda: listening(port) == [])


@needs_haproxy
def test_it_ends_with_the_server(tmp_path: Path) -> None:
    config = tmp_path / "x.cfg"
    config.write_text(
        "defaults\n    mode http\n    timeout connect 1s\n    timeout client 1s\n"
        f"    timeout server 1s\nfrontend a\n    bind unix@{tmp_path}/s.sock\n"
    )
    code = (
        "import subprocess, sys, time, pathlib\n"
        "from actors.front import front_environment\n"
        f"found = front_environment(pathlib.Path({str(tmp_path / 'front')!r}))\n"
        "script = found['RAY_SERVE_HAPROXY_BINARY_PATH']\n"
        f"command = [script, '-db', '-f', {str(config)!r}]\n"
        "child = subprocess.Popen(command, start_new_session=True)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        pid = int(server.stdout.readline())
        ends = time.monotonic() + 20
        while "haproxy" not in psutil.Process(pid).exe():
            assert time.monotonic() < ends
            time.sleep(0.02)
        server.kill()
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < ends
        time.sleep(0.05)
