"""Readers, writers and conversions of Ising problems."""

from __future__ import annotations

import itertools
import json

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.errors import FormatError, InputError
from qcluster.quantum import IsingProblem
from qcluster.quantum.formats import (
    from_bqm,
    from_networkx,
    from_qubo,
    parse_problems,
    problem_from_json,
    problem_to_json,
    read_problems,
    to_bqm,
    to_networkx,
    to_qubo,
    write,
)


@st.composite
def problems(draw, groups=True, fields=True, offset=True):
    n = draw(st.integers(1, 7))
    value = st.floats(-9, 9).map(lambda v: round(v, 3))
    h = draw(st.lists(value, min_size=n, max_size=n)) if fields else [0.0] * n
    pairs = list(itertools.combinations(range(n), 2))
    J = draw(st.dictionaries(st.sampled_from(pairs), value)) if pairs else {}
    members = [[0, 1]] if groups and n > 2 and draw(st.booleans()) else None
    return IsingProblem(h, J, draw(value) if offset else 0.0, members)


def spins(n):
    return np.array(list(itertools.product((-1, 1), repeat=n)))


@settings(max_examples=30, deadline=None)
@given(problems())
def test_json_round_trip(problem):
    assert problem_from_json(json.loads(json.dumps(problem_to_json(problem)))) == problem
    assert IsingProblem.from_dict(problem.to_dict()) == problem


@settings(max_examples=20, deadline=None)
@given(problems(groups=False, offset=False))
def test_coo_round_trip(tmp_path_factory, problem):
    path = tmp_path_factory.mktemp("coo") / "p.coo"
    write(problem, path)
    assert IsingProblem.read(path) == problem


@pytest.mark.parametrize("name", ["p.txt", "p.dimacs", "p.json"])
def test_maxcut_round_trip(tmp_path, name):
    problem = IsingProblem(np.zeros(5), {(0, 1): 1, (1, 3): -2.5})
    write(problem, tmp_path / name)
    assert IsingProblem.read(tmp_path / name) == problem


@pytest.mark.parametrize("name", ["p.txt", "p.dimacs", "p.coo"])
def test_writers_refuse_what_they_cannot_hold(tmp_path, name):
    for problem in (IsingProblem([1.0, 1], groups=[[0, 1]]), IsingProblem([0.0], offset=1)):
        with pytest.raises(FormatError):
            write(problem, tmp_path / name)
    if name != "p.coo":
        with pytest.raises(FormatError, match="fields"):
            write(IsingProblem([1.0]), tmp_path / name)
    with pytest.raises(FormatError):
        write(IsingProblem([0.0]), tmp_path / "absent" / name)


@settings(max_examples=30, deadline=None)
@given(problems(groups=False))
def test_qubo_keeps_every_energy(problem):
    Q, offset = to_qubo(problem)
    again = from_qubo(Q, offset)
    matrix = np.zeros((problem.n, problem.n))
    for (i, j), value in Q.items():
        matrix[i, j] = value
    x = (1 - spins(problem.n)) / 2
    by_hand = np.einsum("bi,ij,bj->b", x, matrix, x) + offset
    expected = problem.energy(spins(problem.n))
    assert np.allclose(by_hand, expected)
    assert np.allclose(again.energy(spins(problem.n)), expected)
    assert np.allclose(from_qubo(matrix, offset).energy(spins(problem.n)), expected)


def test_qubo_refusals():
    with pytest.raises(InputError):
        from_qubo(np.zeros((2, 3)))
    with pytest.raises(InputError):
        from_qubo([[np.nan]])
    with pytest.raises(InputError):
        from_qubo({(0, -1): 1.0})
    with pytest.raises(InputError):
        to_qubo(IsingProblem([0.0, 0], groups=[[0, 1]]))
    assert from_qubo({}).n == 0


@settings(max_examples=20, deadline=None)
@given(problems())
def test_networkx_round_trip(problem):
    assert from_networkx(to_networkx(problem)) == problem


def test_networkx_defaults_and_directions():
    graph = nx.DiGraph([("a", "b"), ("b", "a"), ("b", "c")])
    problem = IsingProblem.from_networkx(graph)
    assert problem.edges.tolist() == [[0, 1], [1, 2]]
    assert problem.weights.tolist() == [2, 1]


@settings(max_examples=20, deadline=None)
@given(problems(groups=False))
def test_bqm_of_both_kinds(problem):
    dimod = pytest.importorskip("dimod")
    bqm = to_bqm(problem)
    assert np.allclose(from_bqm(bqm).energy(spins(problem.n)), problem.energy(spins(problem.n)))
    binary = bqm.change_vartype(dimod.BINARY, inplace=False)
    again = IsingProblem.from_bqm(binary)
    for z in spins(problem.n):
        x = {i: int(s < 0) for i, s in enumerate(z)}
        assert again.energy(z) == pytest.approx(binary.energy(x), abs=1e-9)


GSET = "3 2\n1 2 1\n2 3 -1\n"


@pytest.mark.parametrize(
    "raw",
    [
        GSET.encode(),
        GSET.replace("\n", "\r\n").encode("utf-16"),
        GSET.encode("utf-8-sig"),
        b"\n\n  " + GSET.encode() + b"\n\n",
        b"c text\np edge 3 2\ne 1 2\ne 2 3 -1\n",
        b"# vartype=SPIN\n0 1 1.0\n2 1 -1\n",
        b'{"n": 3, "J": [[0, 1, 1], [1, 2, -0.5], [2, 1, -0.5]]}',
    ],
)
def test_one_problem_in_many_clothes(tmp_path, raw):
    path = tmp_path / "problem"
    path.write_bytes(raw)
    problem = IsingProblem.read(path)
    assert problem == IsingProblem(np.zeros(3), {(0, 1): 1, (1, 2): -1})


def test_binary_coo():
    problem = parse_problems("# vartype=BINARY\n0 0 2\n0 1 -3\n")[0]
    assert problem.energy([-1, -1]) == pytest.approx(-1)
    assert problem.energy([-1, 1]) == pytest.approx(2)
    assert problem.energy([1, 1]) == pytest.approx(0)


@pytest.mark.parametrize(
    ("text", "row", "field"),
    [
        ("3 2\n1 2 1\n", 1, None),
        ("3 1\n1 4 1\n", 2, None),
        ("3 1\n1 0 1\n", 2, None),
        ("3 1\n1 2 nan\n", 2, None),
        ("3 1\n1 2 3 4\n", 2, None),
        ("99999999999 0\n", 1, None),
        ("0 1 1\n0 2\n", 2, None),
        ("0 1 1\n0 1.5 2\n", 2, None),
        ("0 1 1e999\n", 1, None),
        ("0 99999999 1\n", 1, None),
        ("# vartype=OTHER\n0 1 1\n", None, None),
        ("# nothing\n", None, None),
        ("p edge 3\n", 1, None),
        ("c\np edge 3 1\nx 1 2\n", 3, None),
        ("p edge 3 2\ne 1 2\n", 1, None),
        ('{"h": [1], "J": [[0, 1]]}', None, "J[0]"),
        ('{"h": [1], "J": [[0, 0.5, 1]]}', None, "J[0]"),
        ('{"h": [1], "J": [[0, 0, "1"]]}', None, "J[0]"),
        ('{"h": [1], "J": [[0, 7, 1]]}', None, "J"),
        ('{"h": [1], "J": 3}', None, "J"),
        ('{"h": ["1"]}', None, "h"),
        ('{"h": [true]}', None, "h"),
        ('{"h": [1e400]}', None, "h"),
        ('{"h": 1}', None, "h"),
        ('{"J": []}', None, "h"),
        ('{"n": -1}', None, "n"),
        ('{"n": true}', None, "n"),
        ('{"n": 99999999999}', None, "n"),
        ('{"n": 2, "h": [1]}', None, "n"),
        ('{"h": [1], "groups": [0]}', None, "groups"),
        ('{"h": [1, 2], "groups": [[0.5]]}', None, "groups[0]"),
        ('{"h": [1, 2], "groups": [[0], [0]]}', None, "groups[1]"),
        ('{"h": [1, 2], "groups": [[]]}', None, "groups[0]"),
        ('{"h": [1], "offset": [1]}', None, "offset"),
        ('{"h": [1], "ofset": 1}', None, "ofset"),
        ('[{"h": [1]}, {"h": [null]}]', None, "[1].h"),
        ("[3]", None, "[0]"),
        ('{"h": [1],\n "J": }', 2, None),
        ('{"h": [' + "9" * 400 + "]}", None, "h"),
        ('{"h": [' + "9" * 5000 + "]}", None, None),
    ],
)
def test_errors_name_the_place(tmp_path, text, row, field):
    path = tmp_path / "problem"
    path.write_text(text)
    with pytest.raises(FormatError) as caught:
        read_problems(path)
    assert (caught.value.row, caught.value.field) == (row, field)
    assert caught.value.file == str(path)
    assert len(str(caught.value)) < 400


def test_annotations_only_beside_an_id():
    assert parse_problems('[{"id": 1, "h": [1], "kind": "x", "n": 1}]')[0].n == 1


def test_binary_rubbish(tmp_path):
    path = tmp_path / "problem"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FormatError, match="not UTF-16 text"):
        read_problems(path)
    with pytest.raises(FormatError):
        read_problems(tmp_path)


def test_read_wants_one(tmp_path):
    path = tmp_path / "p.json"
    path.write_text('[{"h": [1]}, {"h": [2]}]')
    with pytest.raises(InputError, match="2 problems"):
        IsingProblem.read(path)


def test_shared_gset(data_dir):
    sizes = {"G1": (800, 19176), "G14": (800, 4694), "G55": (5000, 12498)}
    for name, (n, m) in sizes.items():
        problem = IsingProblem.read(data_dir / "quantum" / "gset" / f"{name}.txt")
        assert (problem.n, len(problem.edges)) == (n, m)
