"""The order in which timed things take turns, and what is counted."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from turns import take_turns


def test_rounds_alternate_and_the_first_is_not_counted(monkeypatch):
    done, clock = [], iter(range(100))
    monkeypatch.setattr("time.process_time", lambda: next(clock))
    seconds = take_turns({name: lambda name=name: done.append(name) for name in "abc"}, repeats=3)
    assert done == list("cba" + "abc" + "cba" + "abc")
    assert seconds == {"a": [1, 1, 1], "b": [1, 1, 1], "c": [1, 1, 1]}


def test_several_threads_are_timed_by_the_clock_on_the_wall(monkeypatch):
    monkeypatch.setattr("time.perf_counter", iter([0.0, 5.0, 5.0, 7.5]).__next__)
    assert take_turns({"a": lambda: None}, repeats=1, threads=2) == {"a": [2.5]}
