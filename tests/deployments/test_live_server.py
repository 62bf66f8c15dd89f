"""The served product as its users meet it: real Ray, real processes, real HTTP."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import httpx
import pytest
from servers import ROOT, Server, events

PLANNERS = ("routing", "energy", "nvlink", "joint")
ENVELOPE = {
    "schema_version", "plan_id", "created_at", "planner", "config", "seed", "telemetry", "wall_s",
    "solver", "objective", "lower_bound", "gap", "baselines", "quantum_gain", "warnings",
    "expires_at",
}  # fmt: skip

pytestmark = pytest.mark.ray


@pytest.mark.parametrize("planner", PLANNERS)
def test_every_planner_has_a_fresh_certified_plan(server: Server, planner: str) -> None:
    found = server.http.get(f"/v1/plans/{planner}/latest").json()
    plan = found["plan"]
    assert set(plan) >= ENVELOPE
    assert plan["planner"] == planner
    assert plan["telemetry"]["simulated"] is True
    assert plan["telemetry"]["age_s"] < 10
    assert plan["stale"] is False
    assert found["alarm"] is None
    assert plan["baselines"]
    if plan["lower_bound"] is None:
        assert plan["reasons"]["lower_bound"]
    else:
        assert plan["lower_bound"] <= plan["objective"]
        assert 0 <= plan["gap"] < 0.5


def test_plans_move_with_the_telemetry(server: Server) -> None:
    before = server.plans()["plans"]
    server.until(
        lambda: all(
            (now := server.plans()["plans"][name])
            and now["plan_id"] != before[name]["plan_id"]
            and now["telemetry"]["snapshot_hash"] != before[name]["telemetry"]["snapshot_hash"]
            for name in PLANNERS
        )
    )


@pytest.mark.parametrize("planner", PLANNERS)
def test_history_is_newest_first_and_explained(server: Server, planner: str) -> None:
    history = server.http.get(f"/v1/plans/{planner}/history", params={"limit": 5}).json()["plans"]
    assert 1 <= len(history) <= 5
    assert [p["seq"] for p in history] == sorted((p["seq"] for p in history), reverse=True)
    told = server.http.get(f"/v1/plans/{history[0]['plan_id']}/explain").json()
    assert told["plan_id"] == history[0]["plan_id"]
    assert len(told["because"]) >= 3


def test_every_openapi_example_works_when_pasted(server: Server) -> None:
    document = server.http.get("/openapi.json").json()
    tried = 0
    for path, operations in document["paths"].items():
        content = operations.get("post", {}).get("requestBody", {}).get("content", {})
        for kind, form in content.items():
            if kind != "application/json":
                continue  # bytes have no example that could be pasted
            # The study that the example before made.
            where, headers = path.replace("{study}", "first"), {"Content-Type": kind}
            answer = server.http.post(where, json=form["example"], headers=headers)
            assert answer.status_code in (200, 201, 202), f"{path}: {answer.text}"
            tried += 1
    assert tried >= 6


def test_the_readme_commands_run_as_written(server: Server) -> None:
    readme = (ROOT / "README.md").read_text().replace("\\\n", "")
    commands = [line for line in readme.splitlines() if line.startswith("curl ")]
    assert len(commands) >= 2
    for command in commands:
        real = command.replace("localhost:8000", f"127.0.0.1:{server.port}").split("  #")[0]
        done = subprocess.run(["sh", "-c", real], capture_output=True, text=True, check=True)
        answer = json.loads(done.stdout)
        assert "objective" in answer or answer["plan"]["objective"]


def test_a_plan_on_demand_carries_its_proof(server: Server) -> None:
    body = {
        "tokens": [{"id": str(i), "complexity": 1 + i % 3} for i in range(40)],
        "model_graph": {"nodes": [{"id": e, "capacity": 10} for e in range(4)], "edges": []},
    }
    plan = server.http.post("/v1/routing/plan", json=body).raise_for_status().json()
    assert set(plan) >= ENVELOPE
    assert set(plan["assignment"]) == {str(i) for i in range(40)}
    assert max(len(q) for q in plan["queues"].values()) <= 10


def test_a_batch_answers_each_problem_for_itself(server: Server) -> None:
    good = {"kind": "solve", "problem": {"h": [1.0], "J": []}}
    document = server.http.get("/openapi.json").json()
    example = document["paths"]["/v1/solve"]["post"]["requestBody"]["content"]
    good = {"kind": "solve", **example["application/json"]["example"]}
    problems = [good, {"kind": "solve", "nothing": 1}, {"kind": "no.such"}, 7]
    answers = server.http.post("/v1/plans:batch", json={"problems": problems}).json()["answers"]
    assert "result" in answers[0]
    assert [bool(a.get("error")) for a in answers] == [False, True, True, True]


def test_pushed_samples_reach_the_snapshot(server: Server) -> None:
    shown = server.http.get("/v1/telemetry/latest").json()["snapshot"]
    node, _, index = shown["gpus"][0].rpartition("/")
    sample = {"node": node, "gpu": int(index), "power_w": 123.25}

    def seen() -> bool:
        # The simulator overwrites it within a second, so push and look in one breath.
        taken = server.http.post("/v1/telemetry", json=sample)
        assert taken.json() == {"samples": 1}
        snapshot = server.http.get("/v1/telemetry/latest").json()["snapshot"]
        return bool(snapshot["power_w"][0] == 123.25)

    server.until(seen)


def test_the_stream_shows_snapshots_and_plans(server: Server) -> None:
    wanted = {"snapshot", *(f"plan {name}" for name in PLANNERS)}
    with httpx.stream("GET", f"{server.url}/v1/telemetry/stream", timeout=30.0) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        for event, data in events(response):
            wanted.discard(f"plan {data['planner']}" if event == "plan" else event)
            if not wanted:
                break


def test_many_open_streams_do_not_hold_up_plans(server: Server) -> None:
    with httpx.Client(timeout=30.0, limits=httpx.Limits(max_connections=None)) as client:
        streams = [
            client.send(
                client.build_request("GET", f"{server.url}/v1/telemetry/stream"), stream=True
            )
            for _ in range(12)
        ]
        try:
            assert all(s.status_code == 200 for s in streams)
            assert server.http.get("/v1/plans").status_code == 200
        finally:
            for stream in streams:
                stream.close()


def test_the_page_and_its_files_come_with_a_strict_policy(server: Server) -> None:
    page = server.http.get("/")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for part in ("href", "src"):
        for piece in page.text.split(f'{part}="')[1:]:
            target = piece.split('"')[0]
            if target.startswith(("#", "data:", "/docs", "/metrics")):
                continue
            assert server.http.get(target).status_code == 200, target


def test_metrics_are_prometheus_text_of_low_cardinality(server: Server) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    text = server.http.get("/metrics").text
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    assert {s.labels["planner"] for s in samples if s.labels} == set(PLANNERS)
    assert len(samples) < 60


EVIL: list[tuple[str, bytes]] = [
    ("/v1/solve", b""),
    ("/v1/solve", b"{"),
    ("/v1/solve", b'{"h": [NaN]}'),
    ("/v1/solve", b'{"h": [1e400]}'),
    ("/v1/solve", b'{"problem": {"h": [1], "J": [[0, 5, 1]]}}'),
    ("/v1/solve", b"[" * 200_000),
    ("/v1/solve", b'{"a":' * 200_000),
    ("/v1/solve", b'{"\\ud800": 1}'),
    ("/v1/solve", b"\x80\x04\x95pickle"),
    ("/v1/routing/plan", b'{"tokens": [], "model_graph": {}}'),
    ("/v1/routing/placement", b'{"load": [[1, 2], [3]], "num_gpus": true}'),
    ("/v1/energy/plan", b'{"unknown": 1}'),
    ("/v1/nvlink/plan", b'{"fabric": {"nodes": [], "edges": []}}'),
    ("/v1/plans:batch", b'{"problems": []}'),
    ("/v1/plans:batch", b'{"problems": NaN}'),
    ("/v1/telemetry", b'{"ts_s": 1, "node": "x", "gpu": 0, "power_w": NaN}'),
    ("/v1/telemetry", b'{"ts_s": 1, "node": "x", "gpu": 0, "power_mw": 5}'),
    ("/v1/telemetry", b"not json"),
]


@pytest.mark.parametrize(("path", "body"), EVIL, ids=lambda v: str(v)[:40])
def test_bad_bodies_get_a_problem_not_a_500(server: Server, path: str, body: bytes) -> None:
    answer = server.http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    detail = answer.json()["detail"]
    assert detail
    assert "Traceback" not in detail
    assert "\n" not in detail


def test_bodies_over_the_limit_are_refused(server: Server) -> None:
    """And the answer is read whole, though the client is still sending when it comes."""
    block = b"x" * 2**20

    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield block

    for _ in range(10):
        assert server.http.post("/v1/solve", content=17 * block).status_code == 413
        assert server.http.post("/v1/solve", content=chunks()).status_code == 413
    assert server.http.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/plans/nonsense/latest", 404),
        ("GET", "/v1/plans/nonsense/explain", 404),
        ("GET", "/v1/plans/routing/history?limit=0", 422),
        ("GET", "/v1/plans/energy/nonsense", 404),
        ("DELETE", "/v1/jobs/nonsense", 404),
        ("POST", "/v1/plans/energy/nonsense/restore", 404),
        ("GET", "/v1/nothing", 404),
        ("PUT", "/v1/solve", 405),
        ("GET", "/ui/../../pyproject.toml", 404),
    ],
)
def test_wrong_routes_are_problems(server: Server, method: str, path: str, status: int) -> None:
    answer = server.http.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert "\n" not in answer.json()["detail"]  # errors of actors too are one line
    if status == 405:
        assert answer.headers["allow"] == "POST"


def test_a_key_that_is_used_twice_is_refused_in_one_line(server: Server) -> None:
    for body, status in (({"h": [1.0]}, 200), ({"h": [2.0]}, 422)):
        answer = server.http.post("/v1/solve", json=body, headers={"Idempotency-Key": "twice"})
        assert answer.status_code == status
    assert "\n" not in answer.json()["detail"]
    assert answer.json()["field"] == "Idempotency-Key"
