import signal
import threading
from contextlib import nullcontext

import pytest

from thalweg.cli import failing
from thalweg.lab.running import endings
from thalweg.lab.running.endings import held_back

INT, TERM = signal.SIGINT, signal.SIGTERM

pytestmark = pytest.mark.usefixtures("ctrl_c")


@pytest.fixture
def terminated():
    """What has come of SIGTERM."""
    came = []
    before = signal.signal(TERM, lambda number, _: came.append(number))
    yield came
    signal.signal(TERM, before)


def test_ctrl_c_waits_for_the_end():
    done = []

    def work():
        with held_back():
            signal.raise_signal(INT)
            done.append(1)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == [1]
    assert signal.getsignal(INT) is signal.default_int_handler


def test_several_are_one(terminated):
    with held_back():
        for _ in range(3):
            signal.raise_signal(TERM)
        assert terminated == []
    assert terminated == [TERM]


def test_it_waits_for_the_outermost(terminated):
    with held_back():
        with held_back():
            signal.raise_signal(TERM)
        assert terminated == []
    assert terminated == [TERM]


def test_after_a_while_a_second_one_goes_through(monkeypatch):
    done = []

    def hang():
        with held_back():
            signal.raise_signal(INT)
            done.append(1)
            monkeypatch.setattr(endings, "PATIENCE", -1.0)
            signal.raise_signal(INT)
            done.append(2)

    with pytest.raises(KeyboardInterrupt):
        hang()
    assert done == [1]
    assert signal.getsignal(INT) is signal.default_int_handler


def test_what_is_ignored_stays_ignored():
    signal.signal(INT, signal.SIG_IGN)
    with held_back():
        signal.raise_signal(INT)
        assert signal.getsignal(INT) == signal.SIG_IGN
    assert signal.getsignal(INT) == signal.SIG_IGN


def test_a_signal_that_comes_as_it_ends_is_not_lost(monkeypatch, terminated):
    restore = signal.signal

    def cut_short(number, handler):
        if number == TERM:
            raise KeyboardInterrupt
        return restore(number, handler)

    def work():
        with held_back():
            monkeypatch.setattr(signal, "signal", cut_short)

    with pytest.raises(KeyboardInterrupt):
        work()
    monkeypatch.undo()
    signal.raise_signal(TERM)
    assert terminated == [TERM], "though nobody has put its handler back"


def test_other_threads_are_none_of_its_business():
    found = []

    def look():
        with held_back():
            found.append(signal.getsignal(INT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]


@pytest.mark.parametrize(
    ("daemon", "ended", "status"), [(False, True, 0), (False, False, 130), (True, True, None)]
)
def test_a_thread_that_a_task_has_left_is_not_waited_for(monkeypatch, daemon, ended, status):
    left, over = [], threading.Event()
    monkeypatch.setattr("os._exit", left.append)

    def run(_):
        threading.Thread(target=over.wait, daemon=daemon).start()
        return ended

    try:
        with nullcontext() if ended else pytest.raises(SystemExit):
            failing.finish(run, None, "")
    finally:
        over.set()
    assert left == ([] if status is None else [status])
