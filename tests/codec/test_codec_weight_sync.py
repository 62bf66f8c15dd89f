"""Weights in a chain of digests: whatever happens to updates and answers, nobody drifts."""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.codec.weight_sync import (
    Acknowledgement,
    WeightReceiver,
    WeightSender,
    digest_of,
)
from qcluster.errors import InputError
from qcluster.q_compressor import compress_state_dict
from qcluster.q_decompressor import decompress


def weights(step: int) -> dict[str, np.ndarray]:
    """A model of which a step changes a few numbers."""
    first = np.random.default_rng(0).normal(size=(40, 50)).astype(ml_dtypes.bfloat16)
    for number in range(1, step + 1):
        draw = np.random.default_rng(number)
        rows, columns = draw.integers(0, 40, 20), draw.integers(0, 50, 20)
        first[rows, columns] *= np.asarray(1.01, dtype=ml_dtypes.bfloat16)
    return {"w": first, "b": np.full(3, step, dtype=np.float32), "step": np.array(step)}


def pair() -> tuple[WeightSender, WeightReceiver]:
    return WeightSender(compress_state_dict), WeightReceiver(decompress, 1 << 20)


def step(sender: WeightSender, receiver: WeightReceiver, number: int) -> int:
    """Publish and deliver; bytes that were sent."""
    sender.publish(weights(number))
    update = sender.update_for("r")
    assert sender.heard("r", receiver.apply(update))
    return len(update.blob)


def test_the_first_update_is_whole_and_the_next_are_changes() -> None:
    sender, receiver = pair()
    sizes = [step(sender, receiver, number) for number in range(4)]
    assert max(sizes[1:]) < 0.4 * sizes[0]
    assert receiver.digest == digest_of(weights(3)) == sender.digest
    assert receiver.weights["w"].tobytes() == weights(3)["w"].tobytes()
    assert receiver.version == 4


def test_an_update_that_was_lost_is_made_up_for() -> None:
    sender, receiver = pair()
    step(sender, receiver, 0)
    sender.publish(weights(1))
    sender.update_for("r")  # lost on the way
    assert not sender.heard("r", None)
    sender.publish(weights(2))
    update = sender.update_for("r")
    assert update.parent is None
    assert sender.heard("r", receiver.apply(update))
    assert receiver.digest == digest_of(weights(2))


def test_an_answer_that_was_lost_is_made_up_for() -> None:
    sender, receiver = pair()
    step(sender, receiver, 0)
    sender.publish(weights(1))
    receiver.apply(sender.update_for("r"))
    sender.heard("r", None)
    assert sender.update_for("r").parent is None
    step(sender, receiver, 2)
    assert receiver.digest == digest_of(weights(2))


def test_an_update_is_applied_to_its_parent_only() -> None:
    sender, receiver = pair()
    step(sender, receiver, 0)
    sender.publish(weights(1))
    update = sender.update_for("r")
    fresh = WeightReceiver(decompress, 1 << 20)
    answer = fresh.apply(update)
    assert not answer.applied
    assert "not held" in answer.reason
    assert fresh.weights == {}
    assert not sender.heard("r", answer)
    assert sender.heard("r", fresh.apply(sender.update_for("r")))


def test_damaged_updates_change_nothing() -> None:
    sender, receiver = pair()
    step(sender, receiver, 0)
    sender.publish(weights(1))
    update = sender.update_for("r")
    blob = bytearray(update.blob)
    blob[len(blob) // 2] ^= 4
    for bad in (
        dataclasses.replace(update, blob=bytes(blob)),
        dataclasses.replace(update, blob=b""),
        dataclasses.replace(update, digest="0" * 64),
        dataclasses.replace(update, blob=compress_state_dict(weights(5)), parent=None),
    ):
        answer = receiver.apply(bad)
        assert not answer.applied
        assert answer.reason
        assert receiver.digest == digest_of(weights(0))
    assert receiver.apply(update).applied


def test_updates_that_come_twice_are_applied_once() -> None:
    sender, receiver = pair()
    step(sender, receiver, 0)
    sender.publish(weights(1))
    update = sender.update_for("r")
    assert receiver.apply(update).applied
    assert receiver.apply(update).applied
    assert receiver.version == 2


def test_weights_beyond_the_limit_are_refused() -> None:
    sender = WeightSender(compress_state_dict)
    sender.publish(weights(0))
    answer = WeightReceiver(decompress, 100).apply(sender.update_for("r"))
    assert not answer.applied
    assert "cannot be read" in answer.reason


def test_the_senders_copy_is_its_own() -> None:
    sender, receiver = pair()
    mine = weights(0)
    sender.publish(mine)
    mine["b"][:] = 77
    receiver.apply(sender.update_for("r"))
    assert receiver.weights["b"].tolist() == [0, 0, 0]


def test_nothing_to_send_is_said() -> None:
    sender = WeightSender(compress_state_dict)
    with pytest.raises(InputError):
        sender.update_for("r")
    with pytest.raises(InputError):
        sender.publish({})


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["delivered", "lost", "answer lost", "doubled", "late", "restarted"]),
            st.sampled_from(["a", "b"]),
        ),
        min_size=1,
        max_size=10,
    )
)
def test_whatever_happens_receivers_hold_a_published_version_and_catch_up(
    events: list[tuple[str, str]],
) -> None:
    sender = WeightSender(compress_state_dict)
    receivers = {name: WeightReceiver(decompress, 1 << 20) for name in "ab"}
    published, late = {}, None
    for number, (event, name) in enumerate(events):
        sender.publish(weights(number % 4))
        published[sender.digest] = number
        if event == "restarted":
            receivers[name] = WeightReceiver(decompress, 1 << 20)
        update = sender.update_for(name)
        if late is not None:
            receivers[late[0]].apply(late[1])
            late = None
        answer: Acknowledgement | None = None
        if event == "late":
            late = (name, update)
        elif event != "lost":
            answer = receivers[name].apply(update)
            if event == "doubled":
                answer = receivers[name].apply(update)
        sender.heard(name, None if event == "answer lost" else answer)
        for receiver in receivers.values():
            assert receiver.digest is None or receiver.digest in published
            if receiver.digest is not None:
                assert digest_of(receiver.weights) == receiver.digest
    for name, receiver in receivers.items():
        for _ in range(2):
            sender.heard(name, receiver.apply(sender.update_for(name)))
        assert receiver.digest == sender.digest
