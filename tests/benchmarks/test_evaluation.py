import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "evaluation.py"


def test_rates_stand_side_by_side_with_equal_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"--questions": 6, "--batch-size": 3, "--new-tokens": 2, "--workers": 0, "--threads": 1, "--repeats": 1}
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *(str(word) for pair in sizes.items() for word in pair)])
    monkeypatch.setattr(sys, "path", list(sys.path))
    runpy.run_path(str(SCRIPT), run_name="__main__")
    title, header, one, three = capsys.readouterr().out.splitlines()
    assert title == "6 questions on cpu, 1 threads, 0 workers; 0 differ"
    assert header.split() == ["batch", "size", "questions/s", "ratio"]
    assert (one.split()[0], one.split()[2], three.split()[0]) == ("1", "1.0", "3")
