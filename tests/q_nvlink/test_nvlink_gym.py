"""The routing environment passes gymnasium's own checks and its registry makes it."""

from __future__ import annotations

import numpy as np
import pytest

from qcluster.errors import InputError

gymnasium = pytest.importorskip("gymnasium")

from gymnasium.utils.env_checker import check_env  # noqa: E402

from qcluster.q_nvlink.rl.gym import ENV_ID, GymFlow, register_envs  # noqa: E402

CAPACITY = np.array([[0, 4, 2, 1], [4, 0, 0, 4], [2, 0, 0, 2], [1, 4, 2, 0]], dtype=float)
DEMAND = np.zeros((4, 4))
DEMAND[0, 3] = 7.0


@pytest.mark.parametrize(
    "more",
    [
        {"fabric_seed": 0},
        {"fabric_seed": 3},
        {"capacity": CAPACITY, "demand": DEMAND, "events": {2: [0]}},
    ],
)
def test_gymnasium_finds_nothing_wrong(more):
    register_envs()
    check_env(gymnasium.make(ENV_ID, ticks=5, **more).unwrapped)


def test_the_entry_point_registers_within_its_namespace():
    from gymnasium.envs.registration import namespace

    gymnasium.registry.pop(ENV_ID, None)
    with namespace("qcluster"):  # as gymnasium calls it when it is imported
        register_envs()
    assert ENV_ID in gymnasium.registry


def test_the_registry_makes_it():
    register_envs()
    register_envs()
    env = gymnasium.make(ENV_ID, capacity=CAPACITY, demand=DEMAND, ticks=3)
    seen, info = env.reset(seed=1)
    assert env.observation_space.contains(seen)
    assert info["busiest"] == pytest.approx(1.0)
    ticks = 0
    cut = False
    while not cut:
        seen, reward, ended, cut, info = env.step(env.action_space.sample())
        assert env.observation_space.contains(seen)
        assert np.isfinite(reward)
        assert not ended
        ticks += 1
    assert ticks == 3
    env.close()


def test_spreading_pays_on_a_fabric_with_three_ways():
    env = GymFlow(capacity=CAPACITY, demand=DEMAND, ticks=4)
    env.reset()
    straight = env.step(env.flow.paths.shortest())[1]
    wide = env.step(np.ones(env.action_space.shape[0]))[1]
    assert wide > straight


@pytest.mark.parametrize(
    "more", [{"capacity": CAPACITY}, {"demand": DEMAND}, {"ticks": 0}, {"render_mode": "human"}]
)
def test_what_makes_no_sense(more):
    with pytest.raises(InputError):
        GymFlow(**more)
