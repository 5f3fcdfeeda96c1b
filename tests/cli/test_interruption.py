"""SIGTERM arrives, also where the exception that it raises is lost."""

import signal
import time

import pytest

from adaptive_smoothing_zoo.cli import interruption
from adaptive_smoothing_zoo.cli.interruption import Terminated, told_how_to_go_on


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    """The alarm comes soon, and the one that limits each test's time is put back afterwards."""
    monkeypatch.setattr(interruption, "AGAIN", 0.05)
    handler, timer = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    yield
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, *timer)


def drops_it():
    """As a destructor does, twice."""
    for first in (True, False):
        with pytest.raises(Terminated):
            signal.raise_signal(signal.SIGTERM) if first else time.sleep(30)
    time.sleep(30)


def test_sigterm_that_was_dropped_comes_again(capsys):
    begin = time.monotonic()
    with pytest.raises(Terminated), told_how_to_go_on():
        drops_it()
    assert time.monotonic() - begin < 20
    assert "finished work is saved; repeat the command to resume" in capsys.readouterr().err


def test_afterwards_no_alarm_is_left():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), told_how_to_go_on():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) == before


def test_alarms_of_others_stay_where_nothing_was_terminated():
    handler = signal.getsignal(signal.SIGALRM)
    signal.setitimer(signal.ITIMER_REAL, 500.0)
    with told_how_to_go_on():
        pass
    assert signal.getitimer(signal.ITIMER_REAL)[0] > 400.0
    assert signal.getsignal(signal.SIGALRM) is handler
