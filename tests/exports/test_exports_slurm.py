"""Slurm files: read by a reader of our own, run by bash, and taken by slurmctld where it is."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from qcluster.errors import FormatError, InputError
from qcluster.exports import Settings, export, write
from qcluster.exports.slurm import batch_script, power_scripts
from qcluster.q_nvlink.cluster_tree import expand_hosts
from qcluster.telemetry import Topology

Plans = dict[str, dict[str, Any]]
SLURM = ("slurmctld", "munged", "scontrol", "sbatch")


def records(text: str) -> list[dict[str, str]]:
    """Lines of Key=Value words, as slurm.conf's grammar has them."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"\w+=\S+( \w+=\S+)*", line) for line in lines)
    return [dict(word.split("=", 1) for word in line.split(" ")) for line in lines]


def options(script: str) -> dict[str, str]:
    return dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)$", script, re.MULTILINE))


def test_each_job_asks_for_the_plans_nodes(plans: Plans) -> None:
    files = export(plans["nvlink"], "slurm").files
    jobs = plans["nvlink"]["assignment"]
    assert set(files) == {f"{job}.sbatch" for job in jobs}
    for job, gpus in jobs.items():
        asked = options(files[f"{job}.sbatch"])
        hosts = [gpu.split("/")[0] for gpu in gpus]
        names = [
            name
            for word in re.findall(r"[^,\[]+(?:\[[^\]]*\])?", asked["nodelist"])
            for name in expand_hosts(word)
        ]
        assert sorted(names) == sorted(set(hosts))
        assert int(asked["nodes"]) == len(set(hosts))
        assert int(asked["ntasks"]) == len(gpus)


def test_the_script_hands_srun_a_host_for_every_rank(plans: Plans, tmp_path: Path) -> None:
    """Run by bash with a srun that prints what it was given."""
    fake = tmp_path / "srun"
    fake.write_text('#!/bin/bash\necho "$@"\ncat "$SLURM_HOSTFILE"\n')
    fake.chmod(0o755)
    (script,) = write(export(plans["nvlink"], "slurm", Settings(job="moe-pretrain")), tmp_path)
    assert os.access(script, os.X_OK)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        [script, "train", "a b"], capture_output=True, text=True, check=True, env=environment
    )
    first, *hosts = done.stdout.splitlines()
    assert "--distribution=arbitrary" in first
    assert first.endswith("train a b")
    assert hosts == [gpu.split("/")[0] for gpu in plans["nvlink"]["assignment"]["moe-pretrain"]]


def test_uneven_nodes_ask_by_task_and_are_not_bound() -> None:
    script = batch_script("j", ["a/0", "a/1", "b/3"])
    assert options(script)["gpus-per-task"] == "1"
    assert "map_gpu" not in script
    assert "--gpu-bind=map_gpu:2,0" in batch_script("j", ["a/2", "a/0", "b/2", "b/0"])


def test_topology_files_say_the_same_domains(plans: Plans, topology: Topology) -> None:
    files = export(plans["nvlink"], "slurm", Settings(topology=topology)).files
    blocks = records(files["topology.conf"])
    switches = records(files["topology.tree.conf"])
    document = {part["topology"]: part for part in yaml.safe_load(files["topology.yaml"])}
    want = {node.domain: node.id for node in topology.nodes}
    assert {row["BlockName"]: row["Nodes"] for row in blocks if "BlockName" in row} == want
    assert {row["block"]: row["nodes"] for row in document["block"]["block"]["blocks"]} == want
    leaves = {row["SwitchName"]: row["Nodes"] for row in switches if "Nodes" in row}
    assert leaves == {f"leaf-{name}": node for name, node in want.items()}
    assert switches[0]["SwitchName"] == "cluster"


def test_prolog_sets_each_boards_limit_and_epilog_gives_it_back(
    plans: Plans, tmp_path: Path
) -> None:
    """Run by bash with a driver that notes what it was asked."""
    fake = tmp_path / "nvidia-smi"
    fake.write_text(
        f'#!/bin/bash\n[[ "$1" == --query* ]] && printf "0, 700.00\\n1, 700.00\\n" && exit\n'
        f'echo "$2 $4" >>{tmp_path}/asked\n'
    )
    fake.chmod(0o755)
    write(export(plans["energy"], "slurm"), tmp_path)
    node = plans["energy"]["gpus"][0].split("/")[0]
    asked: list[dict[int, float]] = []
    for name in ("power_prolog.sh", "power_epilog.sh"):
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURMD_NODENAME": node}
        subprocess.run([tmp_path / name], check=True, env=environment)
        rows = (tmp_path / "asked").read_text().split("\n")[:-1]
        asked.append({int(r.split()[0]): float(r.split()[1]) for r in rows})
        (tmp_path / "asked").unlink()
    watts = dict(zip(plans["energy"]["gpus"], plans["energy"]["caps_w"], strict=True))
    assert len(asked[0]) == 8
    for gpu, limit in asked[0].items():
        assert 0 <= watts[f"{node}/{gpu}"] - limit < 1  # never above the plan
    assert asked[1] == {0: 700.0, 1: 700.0}
    assert "simulated" in (tmp_path / "power_prolog.sh").read_text()


def test_a_node_that_the_plan_does_not_know_is_left_alone(tmp_path: Path) -> None:
    script = power_scripts({"n1": {0: 300.0}}, "x")["power_prolog.sh"]
    environment = {"PATH": os.environ["PATH"], "SLURMD_NODENAME": "other"}
    subprocess.run(["bash", "-c", script], check=True, env=environment)


@pytest.mark.parametrize("name", ["a b", "a;rm", "$(x)", "-n", "", "a\nb", "ä"])
def test_names_that_would_break_out_of_a_script_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="cannot be a name in Slurm"):
        batch_script(name, ["a/0"])
    with pytest.raises((InputError, FormatError)):
        batch_script("job", [f"{name}/0"])


def test_bad_plans_are_named(plans: Plans) -> None:
    with pytest.raises(InputError, match="slurm wants a plan of nvlink or energy"):
        export(plans["routing"], "slurm")
    with pytest.raises(InputError, match="'nope': the plan has no such job; it has moe-pretrain"):
        export(plans["nvlink"], "slurm", Settings(job="nope"))
    for caps in ([None], [float("nan")], [-1.0], [True], [1.0, 2.0]):
        with pytest.raises(FormatError, match="caps_w"):
            export({"planner": "energy", "gpus": ["a/0"], "caps_w": caps}, "slurm")
    for gpus in (["a/0", "a/0"], ["a"], "a/0"):
        with pytest.raises(FormatError):
            export({"planner": "nvlink", "assignment": {"j": gpus}}, "slurm")
    with pytest.raises(InputError, match="no nodes"):
        export(plans["nvlink"], "slurm", Settings(topology=Topology()))


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _configuration(home: Path, nodes: str) -> str:
    lines = {
        "ClusterName": "exports", "SlurmctldHost": "localhost(127.0.0.1)",
        "SlurmUser": pwd.getpwuid(os.getuid()).pw_name, "SlurmctldPort": _port(),
        "SlurmdPort": _port(), "AuthType": "auth/munge", "AuthInfo": f"socket={home}/munge.sock",
        "StateSaveLocation": home / "state", "SlurmctldPidFile": home / "slurmctld.pid",
        "SlurmdSpoolDir": home / "state", "SlurmctldLogFile": home / "slurmctld.log",
        "ProctrackType": "proctrack/linuxproc", "TaskPlugin": "task/none",
        "SelectType": "select/cons_tres", "SelectTypeParameters": "CR_Core",
        "TopologyPlugin": "topology/tree", "GresTypes": "gpu", "SuspendProgram": "/bin/true",
        "ResumeProgram": "/bin/true", "SuspendTime": -1, "MailProg": "/bin/true",
    }  # fmt: skip
    rows = [f"{key}={value}" for key, value in lines.items()]
    # Nodes that are started when a job wants them: the controller plans with them as they are.
    rows.append(f"NodeName={nodes} CPUs=64 Gres=gpu:8 State=CLOUD")
    return "\n".join([*rows, "PartitionName=all Nodes=ALL Default=YES State=UP", ""])


@pytest.fixture
def controller(topology: Topology, plans: Plans, tmp_path: Path) -> Iterator[dict[str, str]]:
    """A real slurmctld with our topology file and nodes that are never asked."""
    if missing := [name for name in SLURM if shutil.which(name) is None]:
        pytest.skip(f"Slurm's own programs are not here: {missing[0]}")
    if len(str(tmp_path)) > 80:
        pytest.skip("the temporary directory's name is too long for a socket")
    (tmp_path / "state").mkdir()
    files = export(plans["nvlink"], "slurm", Settings(topology=topology)).files
    (tmp_path / "topology.conf").write_text(files["topology.tree.conf"])
    nodes = ",".join(node.id for node in topology.nodes)
    (tmp_path / "slurm.conf").write_text(_configuration(tmp_path, nodes))
    (tmp_path / "munge.key").write_bytes(os.urandom(1024))
    (tmp_path / "munge.key").chmod(0o400)
    at = {name: f"--{name}-file={tmp_path}/munge.{name}" for name in ("key", "pid", "log", "seed")}
    munged = ["munged", "-F", "--force", f"--socket={tmp_path}/munge.sock", *at.values()]
    environment = {**os.environ, "SLURM_CONF": str(tmp_path / "slurm.conf")}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    started = [subprocess.Popen(munged, **quiet)]
    try:
        started.append(subprocess.Popen(["slurmctld", "-D"], **quiet))
        ends = time.monotonic() + 30
        while subprocess.run(["scontrol", "show", "partition"], check=False, **quiet).returncode:
            assert time.monotonic() < ends, (tmp_path / "slurmctld.log").read_text()
            time.sleep(0.1)
        yield environment
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(10)


def test_slurmctld_takes_our_topology_and_our_jobs(
    controller: dict[str, str], plans: Plans, topology: Topology, tmp_path: Path
) -> None:
    shown = subprocess.run(
        ["scontrol", "show", "topology"], capture_output=True, text=True, env=controller, check=True
    ).stdout
    seen = {row["SwitchName"]: row for row in records(shown)}
    for node in topology.nodes:
        assert seen[f"leaf-{node.domain}"]["Nodes"] == node.id
    assert seen["cluster"]["Level"] == "1"
    folder = tmp_path / "jobs"
    for path in write(export(plans["nvlink"], "slurm"), folder):
        tested = subprocess.run(
            ["sbatch", "--test-only", path, "true"], capture_output=True, text=True, env=controller,
            check=False,
        )  # fmt: skip
        assert tested.returncode == 0, tested.stderr
        ranks = len(plans["nvlink"]["assignment"][path.stem])
        hosts = options(path.read_text())["nodelist"]
        assert f"using {ranks} processors on nodes {hosts} " in tested.stderr
