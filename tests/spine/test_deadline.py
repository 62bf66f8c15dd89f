from __future__ import annotations

import math
import time

import pytest

from qcluster.deadline import Deadline
from qcluster.errors import DeadlineExceeded, InputError


def test_expires_at_its_moment() -> None:
    past = Deadline(time.monotonic() - 1)
    assert past.expired
    assert past.remaining() == 0
    with pytest.raises(DeadlineExceeded):
        past.check()
    ahead = Deadline.after(60)
    assert not ahead.expired
    ahead.check()
    assert 59 < ahead.remaining() <= 60


def test_never_never_comes() -> None:
    never = Deadline.never()
    assert math.isinf(never.remaining())
    assert never.share(0.5) is never
    assert never.sooner(5).remaining() <= 5


def test_share_and_sooner_only_shorten() -> None:
    deadline = Deadline.after(10)
    assert deadline.share(0.5).remaining() == pytest.approx(5, abs=0.1)
    assert deadline.sooner(100).at == deadline.at


@pytest.mark.parametrize("seconds", [math.nan, -1.0])
def test_refuses_what_is_no_time(seconds: float) -> None:
    with pytest.raises(InputError, match="deadline_s"):
        Deadline.after(seconds)
