from __future__ import annotations

import pickle

import pytest

from qcluster.errors import (
    DeadlineExceeded,
    FormatError,
    Infeasible,
    InputError,
    MissingDependency,
    QClusterError,
)


def test_message_names_file_row_and_field_in_one_line() -> None:
    error = FormatError("wants a number", file="a.csv", row=3, field="power_w")
    assert str(error) == "a.csv, row 3, field 'power_w': wants a number"


def test_at_fills_in_only_what_was_unknown() -> None:
    error = InputError("bad", field="h").at(file="f.json", field="other")
    assert (error.file, error.field, error.row) == ("f.json", "h", None)
    assert isinstance(Infeasible("short by 3 W").at(file="x"), Infeasible)


@pytest.mark.parametrize(
    "error",
    [
        InputError("bad", file="f", row=2, field="x"),
        Infeasible("no", field="budget_w"),
        DeadlineExceeded("late"),
        MissingDependency("dimod", needed_for="BQMs", extra="dwave"),
    ],
)
def test_errors_cross_process_boundaries_unchanged(error: QClusterError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert back.__dict__ == error.__dict__


def test_missing_dependency_says_what_to_install() -> None:
    message = str(MissingDependency("dimod", needed_for="reading BQMs", extra="dwave"))
    assert message == "dimod is needed for reading BQMs: pip install 'qcluster-ray[dwave]'"
    assert "pip install foo" in str(MissingDependency("foo", needed_for="x"))


def test_deadline_is_no_oserror() -> None:
    # TimeoutError is an OSError, and handlers of broken pipes must not swallow a deadline.
    assert not issubclass(DeadlineExceeded, OSError)
