"""Traces: what is recorded comes back, replay keeps every token, simulations look only back."""

import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.errors import FormatError, InputError
from qcluster.q_routing import PlacementConfig, place_experts
from qcluster.q_routing.formats import count_picks, read_trace
from qcluster.q_routing.recorder import Recorder
from qcluster.q_routing.simulate import Simulation, simulate
from qcluster.q_routing.traces import Arrivals, Trace, read_arrivals, replay


def made(tokens=40, layers=3, experts=12, k=2, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(tokens, layers, experts)).astype(np.float32)
    ids = np.sort(np.argsort(-logits, axis=2)[:, :, :k], axis=2)
    return Trace(
        ids,
        experts,
        gate_weight=rng.random((tokens, layers, k)),
        logits=logits,
        hidden=rng.normal(size=(tokens, layers, 5)),
        seq_len=np.array([tokens // 4, tokens - tokens // 4]),
    )


def test_a_file_gives_back_what_was_written(tmp_path):
    trace = made()
    trace.write(tmp_path / "trace.npz")
    again = Trace.read(tmp_path / "trace.npz")
    assert np.array_equal(again.expert_ids, trace.expert_ids)
    assert again.num_experts == 12
    assert np.array_equal(again.seq_len, trace.seq_len)
    for name in ("gate_weight", "logits", "hidden"):
        assert np.allclose(getattr(again, name), getattr(trace, name), atol=2e-3)
    assert np.array_equal(read_trace(tmp_path / "trace.npz"), trace.expert_ids)
    assert np.array_equal(trace.load, count_picks(trace.expert_ids, 12))
    assert not list(tmp_path.glob(".*"))


def test_values_beyond_half_precision_are_kept_whole(tmp_path):
    trace = Trace([[[0]]], 2, logits=[[[1e6, -1e6]]])
    trace.write(tmp_path / "t.npz")
    assert Trace.read(tmp_path / "t.npz").logits.tolist() == [[[1e6, -1e6]]]


def test_parts_cut_everything_alike():
    trace = made(40)
    part = trace.part(5, 20)
    assert len(part) == 15
    assert part.seq_len.tolist() == [5, 10]
    assert np.array_equal(part.logits, trace.logits[5:20])
    assert np.array_equal(part.expert_ids, trace.expert_ids[5:20])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"expert_ids": np.zeros((2, 2))}, "whole numbers"),
        ({"expert_ids": np.zeros((0, 2, 1), dtype=int)}, "whole numbers"),
        ({"expert_ids": np.full((2, 2, 1), 9)}, "outside 0 to 3"),
        ({"num_experts": 0}, "at least 1"),
        ({"logits": np.zeros((2, 2, 3))}, r"wants numbers \(2, 2, 4\)"),
        ({"hidden": np.zeros((3, 2, 3))}, r"wants numbers \(2, 2, any\)"),
        ({"gate_weight": np.full((2, 2, 1), np.nan)}, "not finite"),
        ({"seq_len": np.array([3])}, "adds up to 3 tokens of 2"),
        ({"seq_len": np.array([2, 0])}, "at least 1"),
    ],
)
def test_bad_traces_name_the_array(change, message):
    arguments = {"expert_ids": np.zeros((2, 2, 1), dtype=int), "num_experts": 4, **change}
    with pytest.raises(InputError, match=message) as raised:
        Trace(**arguments)
    assert raised.value.field in change


def test_bad_files_are_named(tmp_path):
    path = tmp_path / "t.npz"
    np.savez(path, load=np.ones(3))
    with pytest.raises(FormatError, match=r"t\.npz.*no expert_ids"):
        Trace.read(path)
    np.savez(path, expert_ids=np.zeros((2, 2, 1), dtype=int), num_experts=np.array([1, 2]))
    with pytest.raises(FormatError, match="num_experts"):
        Trace.read(path)
    np.savez(path, expert_ids=np.zeros((2, 2, 1), dtype=int), hidden=np.zeros(3))
    with pytest.raises(InputError, match=r"t\.npz.*hidden"):
        Trace.read(path)
    path.write_bytes(b"no zip")
    with pytest.raises(FormatError, match=r"t\.npz"):
        Trace.read(path)
    with pytest.raises(FormatError, match="No such file"):
        Trace.read(tmp_path / "absent.npz")


def test_the_recorder_keeps_the_newest_tokens():
    recorder, rng = Recorder(2, 6, 2, limit=10, logits=True, hidden=True), np.random.default_rng(0)
    batches = [rng.normal(size=(2, 4, 6)) for _ in range(5)]
    for batch in batches:
        for layer in range(2):
            recorder.add(layer, batch[layer], hidden=batch[layer][:, :3])
    trace = recorder.trace()
    wanted = np.concatenate([b.swapaxes(0, 1) for b in batches])[-10:]
    assert len(trace) == 10
    assert len(recorder) <= 14
    assert np.allclose(trace.logits, wanted)
    assert np.allclose(trace.hidden, wanted[:, :, :3])
    top = np.sort(np.argsort(-wanted, axis=2)[:, :, :2], axis=2)
    assert np.array_equal(trace.expert_ids, top)


def test_the_recorder_takes_the_router_s_own_choice():
    recorder = Recorder(1, 4, 2)
    recorder.add(0, np.zeros((1, 4)), expert_ids=[[3, 1]])
    assert recorder.trace().expert_ids.tolist() == [[[1, 3]]]
    assert recorder.trace().logits is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"layer": 1, "logits": np.zeros((1, 4))}, "layer 0 comes next"),
        ({"layer": 0, "logits": np.zeros((1, 3))}, r"wants \(1, 4\)"),
        ({"layer": 0, "logits": np.zeros((0, 4))}, "numbers"),
        ({"layer": 0, "logits": np.float64(1)}, "numbers"),
        ({"layer": 0, "logits": np.full((1, 4), np.inf)}, "not finite"),
        ({"layer": 0, "logits": np.zeros((1, 4)), "expert_ids": [[0, 4]]}, "experts below 4"),
        ({"layer": 0, "logits": np.zeros((1, 4)), "expert_ids": [[0]]}, "experts below 4"),
    ],
)
def test_the_recorder_refuses_what_does_not_fit_and_goes_on(call, message):
    recorder = Recorder(2, 4, 2)
    with pytest.raises(InputError, match=message):
        recorder.add(**call)
    with pytest.raises(InputError, match="nothing was recorded"):
        recorder.trace()
    for layer in range(2):
        recorder.add(layer, np.eye(4))
    assert len(recorder) == 4


def test_the_recorder_watches_torch_gates():
    import torch

    torch.manual_seed(0)
    gates = [torch.nn.Linear(3, 5) for _ in range(2)]
    recorder = Recorder(2, 5, 2, logits=True, hidden=True)
    hooks = recorder.watch(gates)
    x = torch.randn(2, 4, 3)
    out = [gate(x) for gate in gates]
    for hook in hooks:
        hook.remove()
    gates[0](x)
    trace = recorder.trace()
    assert len(trace) == 8
    assert np.allclose(trace.hidden[:, 0], x.reshape(8, 3))
    assert np.allclose(trace.logits[:, 1], out[1].detach().reshape(8, 5))
    with pytest.raises(InputError, match="wants 2 gates"):
        recorder.watch(gates[:1])


def test_replay_by_tokens():
    trace = made(45)
    windows = list(replay(trace, window=20))
    assert [w.ts_s for w in windows] == [0.0, 1.0]
    assert np.array_equal(np.concatenate([w.expert_ids for w in windows]), trace.expert_ids[:40])
    assert all(w.load.sum() == 20 * 3 * 2 for w in windows)
    with pytest.raises(InputError, match="holds 45 tokens"):
        list(replay(trace, window=46))


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 30)), min_size=1, max_size=20))
@settings(max_examples=30, deadline=None)
def test_replay_by_arrivals_keeps_every_token_in_order(requests):
    ts, tokens = map(np.array, zip(*sorted(requests), strict=True))
    trace = made(17)
    windows = list(replay(trace, arrivals=Arrivals(ts, tokens), window_s=7.0))
    served = [w.expert_ids for w in windows]
    total = int(tokens.sum())
    assert sum(map(len, served)) == total
    if total:
        assert np.array_equal(np.concatenate(served), trace.expert_ids[np.arange(total) % 17])
    for w in windows:
        inside = (ts // 7.0).astype(int) == round(w.ts_s / 7.0)
        assert len(w.expert_ids) == tokens[inside].sum()


@pytest.mark.parametrize("bad", [{"window_s": 0.0}, {"speed": float("nan")}, {"window": True}])
def test_replay_names_a_bad_argument(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        list(replay(made(), **bad))


def test_arrivals_of_both_forms(tmp_path):
    azure = tmp_path / "a.csv"
    azure.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:17:04.0319568,10,5\n2023-11-16 18:17:03.9799600,4808,10\n"
    )
    found = read_arrivals(azure)
    assert found.tokens.tolist() == [4818, 15]
    assert found.ts_s == pytest.approx([0.0, 0.0519968], abs=1e-6)
    mooncake = tmp_path / "m.jsonl.gz"
    rows = [{"timestamp": 3000 * i, "input_length": 7, "output_length": i} for i in range(3)]
    mooncake.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    found = read_arrivals(mooncake)
    assert found.ts_s.tolist() == [0.0, 3.0, 6.0]
    assert found.tokens.tolist() == [7, 8, 9]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no requests"),
        ("a,b\n1,2\n", r"row 2.*TIMESTAMP"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nnow,1,2\n", "row 2.*no request"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:04,-9,2\n", "out of range"),
        ('{"timestamp": 1}\n', "row 1.*input_length"),
        ('{"timestamp": 1, "input_length": 1, "output_length": 1}\nnope\n', "row 2"),
    ],
)
def test_bad_arrivals_name_file_and_row(tmp_path, text, message):
    path = tmp_path / "requests.txt"
    path.write_text(text)
    with pytest.raises(FormatError, match=message):
        read_arrivals(path)
    with pytest.raises(FormatError, match="No such file"):
        read_arrivals(tmp_path / "absent")


def test_a_placement_takes_a_trace_as_it_is():
    trace = made(200)
    options = {"num_slots": 16, "num_gpus": 4}
    first = place_experts(trace.load, **options, trace=trace)
    second = place_experts(trace.load, **options, trace=trace.expert_ids)
    assert np.array_equal(first.slots, second.slots)


def drifting(experts=16):
    """Two windows each of two loads: a switch in the middle."""
    rng = np.random.default_rng(1)
    p = [rng.dirichlet(np.full(experts, 0.4)) for _ in range(2)]
    ids = [rng.choice(experts, (800, 2, 1), p=q) for q in p]
    return Trace(np.concatenate(ids), experts)


def test_simulation_scores_each_window_on_the_plan_made_before_it():
    trace = drifting()
    config = PlacementConfig(max_moved=0.5)
    options = {"num_slots": 24, "num_gpus": 4}
    found = simulate(replay(trace, window=400), **options, config=config)
    assert len(found.equal) == 3
    loads = [w.load for w in replay(trace, window=400)]
    first = place_experts(loads[0], **options)
    assert found.equal[0] == pytest.approx(first.balancedness_on(loads[1]))
    assert (found.weighted >= found.equal - 1e-9).all()
    assert found.switched.tolist() == [False, False, True]
    assert found.equal[1] < found.equal[0]
    assert found.equal[2] > found.equal[1]
    assert found.moved[2] <= 0.5 * found.slots
    assert np.isnan(found.fan_out).all()
    assert Simulation.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    kept = simulate(replay(trace, window=400), **options, replan=False)
    assert kept.moved.sum() == 0
    assert kept.moved_share == 0.0
    assert found.equal[2] > kept.equal[2]


def test_simulation_of_covers_knows_fan_out():
    trace = made(400, experts=12, k=3)
    found = simulate(replay(trace, window=100), num_slots=16, num_gpus=4, cover=True)
    assert ((found.fan_out >= 1) & (found.fan_out <= 3)).all()
    assert ((found.covered > 0.5) & (found.covered <= 1)).all()


def test_a_simulation_needs_two_windows():
    with pytest.raises(InputError, match="two windows"):
        simulate(replay(made(10), window=10), num_slots=16, num_gpus=4)


def test_real_traces_with_real_arrivals(data_dir):
    folder = data_dir / "routing"
    trace = Trace.read(folder / "dsv2lite_intent.npz", 64)
    assert trace.gate_weight.shape == trace.expert_ids.shape
    assert len(trace.seq_len) == 127
    arrivals = read_arrivals(folder / "azure2023_code.csv.gz")
    assert len(arrivals.ts_s) == 8819
    early = Arrivals(arrivals.ts_s[:40], arrivals.tokens[:40] // 20)
    found = simulate(replay(trace, arrivals=early, window_s=2.0), num_slots=80, num_gpus=8)
    assert (found.weighted > 0.7).all()
    assert (found.moved[1:] <= 0.05 * found.slots).all()
