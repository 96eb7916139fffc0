import subprocess
import sys
from pathlib import Path

import pytest

from playground.cache import cached, recipe_key

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.py"
    path.write_text("steps = 1")
    return path


def writing(content: str, calls: list[str]):
    def build(folder: Path) -> None:
        calls.append(content)
        (folder / "part.txt").write_text(content)

    return build


def test_key_changes_with_parameters_and_with_sources(source: Path) -> None:
    key = recipe_key({"width": 64, "steps": 10}, [source])
    assert recipe_key({"steps": 10, "width": 64}, [source]) == key
    assert recipe_key({"width": 65, "steps": 10}, [source]) != key
    source.write_text("steps = 2")
    assert recipe_key({"width": 64, "steps": 10}, [source]) != key


def test_builds_once_per_key_and_links_the_latest(tmp_path: Path) -> None:
    calls: list[str] = []
    first = cached(tmp_path, "part", "aaa", writing("first", calls))
    again = cached(tmp_path, "part", "aaa", writing("never", calls))
    second = cached(tmp_path, "part", "bbb", writing("second", calls))
    assert calls == ["first", "second"]
    assert first == again == tmp_path / "part-aaa"
    assert (first / "part.txt").read_text() == "first"
    assert (tmp_path / "part").resolve() == second
    cached(tmp_path, "part", "aaa", writing("never", calls))
    assert (tmp_path / "part" / "part.txt").read_text() == "first"


def test_failed_build_leaves_no_folder(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise RuntimeError("out of disk")

    with pytest.raises(RuntimeError, match="out of disk"):
        cached(tmp_path, "part", "aaa", fails)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_killed_build_is_started_over(tmp_path: Path) -> None:
    script = (
        "import os, signal; from pathlib import Path; from playground.cache import cached\n"
        "def dies(folder):\n"
        "    (folder / 'half.txt').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"cached(Path({str(tmp_path)!r}), 'part', 'aaa', dies)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=False)
    assert killed.returncode == -9
    assert not (tmp_path / "part-aaa").exists()
    finished = cached(tmp_path, "part", "aaa", writing("whole", []))
    assert [path.name for path in finished.iterdir()] == ["part.txt"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["part", "part-aaa"]


def test_finished_part_is_readable_by_others(tmp_path: Path) -> None:
    assert cached(tmp_path, "part", "aaa", writing("", [])).stat().st_mode & 0o777 == 0o755
