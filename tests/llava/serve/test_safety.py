"""What no module of this repository may do."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
FOLDERS = ("llava", "ccra_patch", "scripts", "playground", "benchmarks")
MODULES = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")]


def calls(file: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]


def test_nothing_that_is_loaded_is_executed():
    loads = []
    for file in MODULES:
        for call in calls(file):
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert "trust_remote_code" not in options, file
            assert ast.unparse(call.func) not in ("pickle.load", "pickle.loads", "eval", "exec"), file
            if ast.unparse(call.func) == "torch.load":
                loads.append(file)
                assert options.get("weights_only") == "True", f"{file}:{call.lineno}"
    assert loads


def test_importing_the_programs_writes_nothing_and_leaves_the_streams_alone(tmp_path):
    names = "app, cli, controller, gradio_web_server, model_worker, sglang_worker"
    code = f"import sys; before = sys.stdout, sys.stderr; from llava.serve import {names}"
    subprocess.run(
        [sys.executable, "-c", f"{code}; assert before == (sys.stdout, sys.stderr)"], cwd=tmp_path, check=True
    )
    assert list(tmp_path.iterdir()) == []
