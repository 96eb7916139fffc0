"""Scripts as commands: in this process, and bash scripts with a Python that has already loaded what they import."""

import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """``script("convert_x.py", "--flag", value)`` -> what it printed."""

    def run(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        monkeypatch.syspath_prepend(ROOT / "scripts")  # as for a script that is started by its path
        capsys.readouterr()
        runpy.run_path(str(ROOT / "scripts" / name), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture
def refusal(script: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """``refusal("convert_x.py", ...)`` -> the line by which it refused, with exit code 2."""

    def refuse(name: str, *arguments: object) -> str:
        with pytest.raises(SystemExit) as stop:
            script(name, *arguments)
        assert stop.value.code == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ")
        return error

    return refuse


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a ``python`` that forks from a process which has torch and transformers loaded."""
    folder = tmp_path_factory.mktemp("warm")
    address = folder / "socket"
    server = subprocess.Popen([sys.executable, Path(__file__).with_name("warm_python.py"), "serve", address])
    while not address.exists():
        assert server.poll() is None
        time.sleep(0.1)
    program = folder / "python"
    program.write_text(
        f'#!/bin/sh\nexec {sys.executable} -I -S {Path(__file__).with_name("warm_python.py")} run {address} "$@"\n'
    )
    program.chmod(0o755)
    yield folder
    server.terminate()
    server.wait()
