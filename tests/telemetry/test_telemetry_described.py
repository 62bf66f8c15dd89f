from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from qcluster.errors import FormatError, InputError
from qcluster.telemetry import Batch, Job, Topology, open_source
from qcluster.telemetry.documents import read_document

TOPOLOGY = {"nodes": [{"id": "a", "gpus": 2, "model": "H100"}]}
JOBS = [{"id": "train", "gpus": 2, "traffic": {"kind": "ring", "bytes": 5}}]


def first_batch(spec: str) -> Batch:
    async def first() -> Batch:
        async for batch in open_source(spec).batches():
            return batch
        raise AssertionError("no batch")

    return asyncio.run(first())


@pytest.mark.parametrize("ending", ["json", "yaml"])
def test_a_file_describes_the_cluster(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"cluster.{ending}"
    path.write_text(json.dumps(TOPOLOGY))  # JSON is YAML too
    batch = first_batch(f"topology:{path}")
    assert batch.topology == Topology.parse(TOPOLOGY)
    assert (batch.jobs, batch.ts_s) == (None, 0.0)


def test_a_file_describes_the_jobs(tmp_path: Path) -> None:
    path = tmp_path / "jobs.json"
    path.write_text(json.dumps(JOBS))
    batch = first_batch(f"jobs:{path}")
    assert batch.jobs == Job.parse_all(JOBS)
    assert batch.topology is None


@pytest.mark.parametrize("kind", ["topology", "jobs"])
def test_wrong_files_are_refused_when_opened(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InputError, match=f"{kind}:FILE"):
        open_source(f"{kind}:")
    with pytest.raises(FormatError, match="No such file"):
        open_source(f"{kind}:{tmp_path}/no.yaml")
    bad = tmp_path / "bad.json"
    bad.write_text('"text"')
    with pytest.raises(FormatError, match=r"bad\.json"):
        open_source(f"{kind}:{bad}")


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("a.json", b"{", "is not JSON"),
        ("a.json", b"[" * 200_000, "is not JSON"),
        ("a.yaml", b"{a: [", "is not YAML"),
        ("a.yaml", b"a: &x [1]\nb: [*x, *x]\n", "aliases"),
        ("a.yaml", b"\xff\xfe\x00", "not UTF-16"),
        ("a.yaml", b"\xff\x00", "not UTF-8"),
        ("a.yaml", b"!!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_bad_documents_are_one_line(tmp_path: Path, name: str, content: bytes, wanted: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(FormatError, match=wanted) as caught:
        read_document(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
