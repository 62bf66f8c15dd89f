"""Plans as bytes."""

from __future__ import annotations

import math
import zlib

import pytest

from qcluster.errors import FormatError
from qcluster.packed import PackedPlan, unpack

PLAN = {"plan_id": "p", "planner": "energy", "created_at": 1.0, "caps_w": [1.0, 2.5], "more": {}}


def test_there_and_back() -> None:
    packed = PackedPlan.of(PLAN)
    assert unpack(packed.body) == PLAN
    assert packed.plan_id == "p"
    assert packed.summary["planner"] == "energy"
    assert "caps_w" not in packed.summary


def test_what_json_cannot_say_is_not_packed() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        PackedPlan.of({**PLAN, "gap": math.nan})


@pytest.mark.parametrize(
    "body",
    [b"", b"plan", PackedPlan.of(PLAN).body[:-9], zlib.compress(b"{"), zlib.compress(b"\xff")],
)
def test_damaged_bytes_are_one_clear_error(body: bytes) -> None:
    with pytest.raises(FormatError, match="a stored plan cannot be read"):
        unpack(body)
