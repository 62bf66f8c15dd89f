"""The killable worker process, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qcluster.deadline import Deadline
from qcluster.errors import DeadlineExceeded, InputError, SolverFailed
from qcluster.worker import SolverProcess

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def process() -> Iterator[SolverProcess]:
    worker = SolverProcess()
    yield worker
    worker.close()


def soon() -> Deadline:
    return Deadline.after(20)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] == "Z"
    except FileNotFoundError:
        return True


def wait_until_gone(pid: int) -> None:
    deadline = Deadline.after(10)
    while not gone(pid):
        deadline.check()
        time.sleep(0.01)


def test_calls_run_in_another_process(process: SolverProcess) -> None:
    assert process.call("os:getpid", deadline=soon()) == process.pid != os.getpid()
    assert process.call("math:factorial", 5, deadline=soon()) == 120


def test_a_stuck_call_is_killed_and_the_next_one_works(process: SolverProcess) -> None:
    process.wait_ready(soon())
    stuck = process.pid
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="killed"):
        process.call("time:sleep", 60, deadline=Deadline.after(0.05))
    assert time.monotonic() - started < 5
    assert gone(stuck)
    assert process.call("math:factorial", 3, deadline=soon()) == 6


def test_a_dying_call_says_how_it_died(process: SolverProcess) -> None:
    with pytest.raises(SolverFailed, match="exit status 3"):
        process.call("os:_exit", 3, deadline=soon())
    with pytest.raises(SolverFailed, match="signal 11"):
        process.call("signal:raise_signal", signal.SIGSEGV, deadline=soon())
    assert process.call("math:factorial", 3, deadline=soon()) == 6


def test_our_errors_arrive_as_they_are_and_others_as_failures(process: SolverProcess) -> None:
    with pytest.raises(InputError, match="deadline_s"):
        process.call("qcluster.deadline:Deadline.after", -1.0, deadline=soon())
    with pytest.raises(SolverFailed, match="ValueError: math domain error"):
        process.call("math:sqrt", -1, deadline=soon())


def test_a_result_that_cannot_be_pickled_is_a_failure(process: SolverProcess) -> None:
    with pytest.raises(SolverFailed, match="pickle"):
        process.call("threading:Lock", deadline=soon())
    assert process.call("math:factorial", 3, deadline=soon()) == 6


def test_no_time_means_no_start() -> None:
    worker = SolverProcess(("time:sleep", (30,)))
    try:
        with pytest.raises(DeadlineExceeded, match="still starting"):
            worker.call("os:getpid", deadline=Deadline.after(0.01))
    finally:
        worker.close()


def test_a_failing_warm_up_is_told_once() -> None:
    worker = SolverProcess(("math:sqrt", (-1,)))
    try:
        with pytest.raises(SolverFailed, match="math domain"):
            worker.wait_ready(soon())
        assert worker.call("math:factorial", 3, deadline=soon()) == 6
    finally:
        worker.close()


def test_a_child_steps_back_and_so_does_the_one_after_it() -> None:
    worker = SolverProcess(nice=3)
    wanted = min(os.getpriority(os.PRIO_PROCESS, 0) + 3, 19)
    assert worker.call("os:nice", 0, deadline=soon()) == wanted
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(SolverFailed):
        worker.call("os:nice", 0, deadline=soon())
    assert worker.call("os:nice", 0, deadline=soon()) == wanted
    worker.close()


def test_closed_means_closed() -> None:
    worker = SolverProcess()
    pid = worker.pid
    worker.close()
    assert gone(pid)
    with pytest.raises(SolverFailed, match="closed"):
        worker.call("os:getpid", deadline=soon())


def test_closing_ends_a_call_that_waits_for_its_answer() -> None:
    worker, raised = SolverProcess(), []

    def ask() -> None:
        try:
            worker.call("time:sleep", 60.0, deadline=Deadline.after(60.0))
        except BaseException as error:
            raised.append(error)

    asking = threading.Thread(target=ask)
    worker.wait_ready(soon())
    asking.start()
    ends = time.monotonic() + 10.0
    while not worker._lock.locked():
        assert time.monotonic() < ends
    worker.close()
    asking.join(10.0)
    assert [type(error) for error in raised] == [SolverFailed]
    assert gone(worker.pid)


def test_the_child_dies_with_a_killed_parent_even_when_stuck() -> None:
    code = (
        "from qcluster.worker import SolverProcess\n"
        "from qcluster.deadline import Deadline\n"
        "w = SolverProcess(); w.wait_ready(Deadline.after(20)); print(w.pid, flush=True)\n"
        "w.call('time:sleep', 600, deadline=Deadline.after(600))\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert parent.stdout is not None
    with parent:
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        wait_until_gone(child)
