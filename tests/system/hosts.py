"""Two machines on one: namespaces of their own for network, processes, mounts, names and IPC.

Everything lives below one PID namespace, whose first process ends with the test: nothing is left
however the test ends. Inside are a bridge, from which commands like ``ray up`` are given, and hosts
with an address, a home directory and an ssh server each.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import psutil
from servers import ROOT

TOOLS = ("unshare", "nsenter", "ip", "sshd", "ssh", "ssh-keygen", "rsync")
SBIN = "/usr/sbin:/sbin"
PATH = f"{os.environ.get('PATH', '/usr/bin:/bin')}:{SBIN}"
GATEWAY = "10.77.0.1"
# The lab's own place for files: the hosts' /tmp and the lab's are empty and private.
SHARED = "/mnt"


def why_not() -> str | None:
    """What is missing here, or None."""
    if os.geteuid() != 0:
        return "wants root, to make network namespaces"
    if missing := [tool for tool in TOOLS if not shutil.which(tool, path=PATH)]:
        return f"wants {', '.join(missing)} (packages openssh-server, rsync, iproute2, util-linux)"
    done = subprocess.run(
        ["unshare", "-n", "-m", "-p", "-u", "-i", "--fork", "ip", "link", "add", "type", "bridge"],
        capture_output=True, text=True, check=False, env={**os.environ, "PATH": PATH},
    )  # fmt: skip
    return None if done.returncode == 0 else f"cannot make namespaces: {done.stderr.strip()}"


class Place:
    """A set of namespaces, kept by its first process."""

    def __init__(self, command: list[str], *, script: str) -> None:
        unshare = ["unshare", "-n", "-m", "-p", "-u", "-i", "--fork", "--kill-child"]
        self.process = subprocess.Popen(
            [*command, *unshare, "--mount-proc", "bash", "-ec", script],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PATH": PATH},
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "made\n"
        # bash, which is process 1 in there, is the last of unshare's line of children.
        self.pid = self.process.pid
        while children := psutil.Process(self.pid).children():
            self.pid = children[0].pid

    def proceed(self) -> None:
        """Let the script go on behind its ``read``."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "ready\n"

    def inside(self, *command: str) -> list[str]:
        enter = ["nsenter", "-t", str(self.pid), "-n", "-m", "-p", "-u", "-i"]
        return [*enter, f"--wd={ROOT}", "--", *command]

    def run(self, *command: str, check: bool = True, **more: Any) -> str:
        done = subprocess.run(
            self.inside(*command), capture_output=True, text=True, check=False,
            timeout=300, env={**os.environ, "PATH": PATH, **more},
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr}"
        return done.stdout

    def processes(self) -> dict[int, str]:
        """Everything that runs in there: process id (as seen from outside) and command line."""
        space = Path(f"/proc/{self.pid}/ns/pid").readlink()
        found = {}
        for process in psutil.process_iter():
            try:
                if Path(f"/proc/{process.pid}/ns/pid").readlink() == space:
                    found[process.pid] = " ".join(process.cmdline())[:150]
            except (OSError, psutil.Error):
                continue
        return found


class Lab(Place):
    """The network with its hosts. Use as a context manager."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        super().__init__(
            [],
            script=f"""
            mount --make-rprivate /
            mount --bind {directory} {SHARED}
            mount -t tmpfs tmpfs /tmp
            mount -t tmpfs tmpfs /dev/shm
            ip link set lo up
            ip link add lab type bridge
            ip addr add {GATEWAY}/24 dev lab
            ip link set lab up
            echo made
            exec sleep infinity
            """,
        )
        key = directory / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        self.hosts: dict[str, Host] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # The first process of a PID namespace takes all others with it, the hosts' too.
        psutil.Process(self.pid).kill()
        for place in (*self.hosts.values(), self):
            place.process.kill()
            place.process.communicate()

    def host(self, name: str, number: int, bashrc: str) -> Host:
        """A machine at 10.77.0.NUMBER whose shells begin with ``bashrc``."""
        self.hosts[name] = Host(self, name, f"10.77.0.{number}", bashrc)
        return self.hosts[name]


class Host(Place):
    """A machine with an ssh server for root."""

    def __init__(self, lab: Lab, name: str, address: str, bashrc: str) -> None:
        self.name, self.address = name, address
        home = lab.directory / name
        (home / ".ssh").mkdir(parents=True, mode=0o700)
        shutil.copy(lab.directory / "key.pub", home / ".ssh" / "authorized_keys")
        (home / ".bashrc").write_text(bashrc)
        # Root's own home stays what it is: a Python may be installed there.
        there = f"{SHARED}/{name}"
        (home / "passwd").write_text(
            f"root:x:0:0:root:{there}:/bin/bash\nsshd:x:105:65534::/run/sshd:/usr/sbin/nologin\n"
        )
        options = (
            f"HostKey={there}/.ssh/host AuthorizedKeysFile={there}/.ssh/authorized_keys "
            "PidFile=none StrictModes=no UsePAM=no PermitRootLogin=yes PrintMotd=no AcceptEnv=none"
        )
        flags = " ".join(f"-o {option}" for option in options.split())
        super().__init__(
            lab.inside(),
            script=f"""
            hostname {name}
            mount --bind {there}/passwd /etc/passwd
            mount -t tmpfs tmpfs /tmp
            mount -t tmpfs tmpfs /dev/shm
            mount -t tmpfs tmpfs /run
            mkdir /run/sshd
            echo made
            read
            ip link set lo up
            ip link set up dev eth0
            ip addr add {address}/24 dev eth0
            ip route add default via {GATEWAY}
            ssh-keygen -q -t ed25519 -N '' -f {there}/.ssh/host
            echo ready
            exec env -i HOME={there} PATH={PATH} $(command -v sshd) -D -q {flags}
            """,
        )
        link = f"v{name}"
        lab.run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0")
        lab.run("ip", "link", "set", link, "master", "lab", "up")
        # `ip` wants the host's process id as the lab sees it, so the file names the namespace.
        subprocess.run(
            ["nsenter", "-t", str(lab.pid), "-n", "ip", "link", "set", "eth0", "netns",
             str(self.pid)],
            check=True, env={**os.environ, "PATH": PATH},
        )  # fmt: skip
        self.proceed()


def python(code: str) -> tuple[str, ...]:
    """A command that runs Python code with our interpreter."""
    return (sys.executable, "-c", code)
