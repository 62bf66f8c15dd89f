"""Registry, configuration, requests, move budget, schemas: the small shared pieces."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from qcluster.config import Config, Recommendation
from qcluster.errors import InputError, NotFound
from qcluster.explain import explain
from qcluster.json_schema import record_schema
from qcluster.moves import MoveBudget
from qcluster.plan import Plan, SolverRef, TelemetryRef
from qcluster.record import Record
from qcluster.registry import Registry
from qcluster.request import REQUESTS, Request, parse_request, run_request


class Toggles(Config):
    qaoa: bool = False
    layers: int = 2
    share: float = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class Doubled(Record):
    value: float
    by: NDArray[np.int64]
    names: dict[str, tuple[int, ...]] = field(default_factory=dict)
    note: str | None = None


class Double(Request):
    kind: ClassVar[str] = "test.double"
    path: ClassVar[str] = "/v1/test/double"
    summary: ClassVar[str] = "Double a number"
    result: ClassVar[type[Record]] = Doubled
    example: ClassVar[dict[str, Any]] = {"value": 2.0}
    value: float

    def run(self) -> Doubled:
        return Doubled(value=2 * self.value, by=np.array([2]))


@pytest.fixture
def registered() -> Any:
    REQUESTS.register(Double.kind, Double)
    yield
    REQUESTS._found.pop(Double.kind)


def test_registry_names_what_there_is() -> None:
    things: Registry[int] = Registry("thing", "qcluster.no_such_group")
    things.register("a", 1)
    things.add("b")(2)
    assert things.get("b") == 2
    assert things.names() == ["a", "b"]
    with pytest.raises(NotFound, match="no thing called 'c'; there are: a, b"):
        things.get("c")


def test_config_is_frozen_and_strict() -> None:
    config = Toggles.read({"qaoa": True})
    assert config.with_(layers=3).layers == 3
    assert Toggles.read(config) is config
    assert Toggles.read(None) == Toggles()
    for bad, name in (
        ({"layers": True}, "layers"),
        ({"layers": "2"}, "layers"),
        ({"share": float("nan")}, "share"),
        ({"nothing": 1}, "nothing"),
    ):
        with pytest.raises(InputError, match=f"config.{name}"):
            Toggles.read(bad)
    with pytest.raises(ValueError, match="frozen"):
        config.layers = 4


def test_recommendation_is_json() -> None:
    row = Recommendation(row={"goal": "x"}, config=Toggles(qaoa=True))
    assert row.to_dict()["config"] == {"qaoa": True, "layers": 2, "share": 0.5}


@pytest.mark.usefixtures("registered")
def test_requests_run_from_bytes() -> None:
    assert run_request("test.double", b'{"value": 4}')["value"] == 8.0


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("body", "field_name"),
    [
        (b'{"value": NaN}', "value"),
        (b'{"value": 1e400}', "value"),
        (b'{"value": true}', "value"),
        (b'{"value": 1, "more": 2}', "more"),
        (b'{"value": 1, "deadline_s": 0}', "deadline_s"),
        (b'{"value": 1, "seed": 1.5}', "seed"),
        (b"{}", "value"),
    ],
)
def test_bad_bodies_name_their_field(body: bytes, field_name: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_request("test.double", body)
    assert caught.value.field == field_name


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("body", [b"", b"{", b"[" * 200_000, b"\xff\xfe", b"null", b"[]"])
def test_bodies_that_are_no_object_are_refused(body: bytes) -> None:
    with pytest.raises(InputError):
        parse_request("test.double", body)


def test_unknown_kinds_are_not_found() -> None:
    with pytest.raises(NotFound, match="no request called 'nope'"):
        parse_request("nope", b"{}")


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.data())
def test_clip_keeps_the_most_valuable_changes(reference: list[int], data: Any) -> None:
    n = len(reference)
    target = data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    gain = data.draw(st.lists(st.floats(0, 10), min_size=n, max_size=n))
    share = data.draw(st.floats(0, 1))
    budget = MoveBudget.of(reference, share)
    kept = budget.clip(target, gain)
    assert budget.moved(kept) <= budget.limit
    changed = kept != np.array(reference)
    assert (kept[changed] == np.array(target)[changed]).all()
    left_out = (np.array(target) != np.array(reference)) & ~changed
    if left_out.any() and changed.any():
        assert np.array(gain)[changed].min() >= np.array(gain)[left_out].max()


def test_move_cost_counts_hamming_distance() -> None:
    budget = MoveBudget.of([1, 2, 3], 0.34)
    current = np.array([1, 2, 0])
    assert budget.limit == 1
    assert budget.left(current) == 0
    assert [budget.cost(current, i, v) for i, v in ((0, 5), (2, 3), (2, 4))] == [1, -1, 0]
    assert MoveBudget.of([1, 2], None).limit == 2
    with pytest.raises(InputError, match="max_moved"):
        MoveBudget.of([1], 1.5)


def test_schema_follows_the_annotations() -> None:
    schema = record_schema(Doubled)
    assert schema["required"] == ["value", "by", "names", "note"]
    assert schema["properties"]["by"] == {"type": "array", "description": "array of int64"}
    assert schema["properties"]["note"] == {"anyOf": [{"type": "string"}, {"type": "null"}]}
    inner = schema["properties"]["names"]["additionalProperties"]
    assert inner == {"type": "array", "items": {"type": "integer"}}


def plan(**more: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "planner": "routing",
        "config": {},
        "seed": 0,
        "solver": SolverRef(requested="qaoa", used="lpt", fallback_reason="qaoa: too large"),
        "objective": 2.0,
        "lower_bound": 1.9,
        "gap": 0.05,
        "baselines": {"hash": 3.0, "lpt": 2.0, "lucky": 1.95},
    }
    return Plan(**{**fields, **more}).to_dict()


def test_explain_tells_solver_bound_baselines_and_source() -> None:
    text = " ".join(explain(plan())["because"])
    for part in (
        "qaoa was asked for, but qaoa: too large",
        "nothing is below 1.9",
        "at most 5.000% room",
        "hash gives 3, 50.00% worse",
        "lucky gives 1.95, 2.50% better",
        "lpt reaches the same",
        "Quantum gain: none to report",
        "from the request alone",
    ):
        assert part in text


def test_explain_handles_what_is_missing() -> None:
    bare = plan(
        lower_bound=None,
        gap=None,
        reasons={"lower_bound": "too large"},
        baselines={},
        quantum_gain=-0.5,
        solver=SolverRef(requested="lpt", used="lpt"),
        telemetry=TelemetryRef(snapshot_hash="abc", age_s=1.0, simulated=True),
        warnings=["hot"],
    )
    text = " ".join(explain(bare)["because"])
    for part in ("no bound: too large", "gained nothing", "simulated snapshot abc", "Note: hot"):
        assert part in text
