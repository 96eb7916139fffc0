"""What README and docs show: commands that exist with flags that exist, links that lead somewhere, code that runs."""

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = {"pip", "git", "cd", "apt-get", "scontrol", ".venv/bin/pre-commit"}  # commands of others
ASSIGNMENT = re.compile(r"^[A-Z][A-Z0-9_]*=")


def shell_commands(page: Path) -> list[str]:
    """Each command of the page's ``sh`` blocks, continuation lines joined, comments dropped."""
    commands = []
    for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            words = shlex.split(line, comments=True)
            if words:
                commands.append(shlex.join(words))
    return commands


COMMANDS = [(page.name, command) for page in PAGES for command in shell_commands(page)]


def split(command: str) -> tuple[dict[str, str], list[str]]:
    """(variables set in front, the words behind them)"""
    words = shlex.split(command)
    count = next((i for i, word in enumerate(words) if not ASSIGNMENT.match(word)), len(words))
    return dict(word.split("=", 1) for word in words[:count]), words[count:]


@cache
def help_of(*program: str) -> str:
    done = subprocess.run([sys.executable, *program, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{program} --help: {done.stderr[-500:]}"
    return done.stdout


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), flags=re.M))


@pytest.mark.slow
@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{page}: {command[:60]}" for page, command in COMMANDS])
def test_every_command_exists(page, command):
    variables, words = split(command)
    match words:
        case [program, *_] if program in ELSEWHERE:
            return
        case ["make", *arguments]:
            targets = {word for word in arguments if "=" not in word and not word.startswith("-")}
            assert targets <= make_targets()
        case ["bash", script, *flags] if script.endswith("/sweep.sh"):  # it would build parts first
            assert (ROOT / script).is_file()
            check_flags(("-m", "ccra_patch.sweep"), flags)
        case ["bash", script, *flags]:
            assert (ROOT / script).is_file()
            if "/eval/" in script or "--help" in flags:
                done = subprocess.run(["bash", script, "--help"], cwd=ROOT, capture_output=True, text=True)
            else:
                environment = os.environ | variables | {"DRY_RUN": "1", "NUM_PROCESSES": "8"}
                if "HOSTFILE" in variables:
                    environment |= {"HOSTFILE": "", "NUM_PROCESSES": "16"}
                if environment.get("LAUNCHER") == "python":
                    environment["NUM_PROCESSES"] = "1"
                done = subprocess.run(
                    ["bash", script, *flags], cwd=ROOT, env=environment, capture_output=True, text=True
                )
            assert done.returncode == 0, done.stderr
        case ["python", "-m", module, *arguments]:
            check_flags(("-m", module), arguments)
        case ["python", script, *arguments]:
            assert (ROOT / script).is_file()
            check_flags((script,), arguments)
        case _:
            pytest.fail(f"{page} shows a command that nothing here knows: {command}")


def check_flags(program: tuple[str, ...], arguments: list[str]) -> None:
    """Every flag is in the program's own help; what follows a lone ``--`` belongs to somebody else."""
    if "--" in arguments:
        arguments = arguments[: arguments.index("--")]
    subcommands = [word for word in arguments[:1] if re.fullmatch(r"[a-z_]+", word)]
    text = help_of(*program, *subcommands)
    for flag in (word.split("=")[0] for word in arguments if word.startswith("--")):
        assert flag in text, f"{' '.join(program)} has no {flag}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target.split("#")[0]).exists(), target
    # Paths written as code are promises too.
    for path in re.findall(r"`((?:llava|ccra_patch|scripts|tests|benchmarks|docs|playground)/[\w./-]+\.\w+)`", text):
        assert (ROOT / path).exists(), path


def test_paper_index_names_what_exists():
    """`file.py`, `Name` in one cell: the name is defined in that file."""
    text = (ROOT / "docs" / "paper_index.md").read_text()
    pairs = re.findall(r"`([\w/]+\.py)`, `([\w.]+)`", text)
    assert len(pairs) > 8
    for path, name in pairs:
        source = (ROOT / path).read_text()
        for part in name.split("."):
            assert re.search(rf"^\s*(?:class|def) {part}\b", source, flags=re.M), f"{name} in {path}"


def test_the_worked_example_is_a_projector(tmp_path, monkeypatch):
    from types import SimpleNamespace

    import torch

    from llava.model.multimodal_projector import registry
    from llava.model.multimodal_projector.builder import build_vision_projector

    text = (ROOT / "docs" / "development.md").read_text()
    (code,) = re.findall(r'```python title="my_projector.py"\n(.*?)```', text, flags=re.S)
    registry.registered_projectors()
    monkeypatch.setattr(registry, "_specs", dict(registry._specs))
    exec(compile(code, "my_projector.py", "exec"), {"__name__": "my_projector"})
    config = SimpleNamespace(mm_projector_type="mean_of_layers", mm_hidden_size=8, hidden_size=12)
    projector = build_vision_projector(config)
    assert registry.needs_of(projector).layers == (1, 3, -1)
    out = projector(torch.randn(2, 5, 8), torch.randn(2, 3, 5, 8))
    assert out.shape == (2, 5, 12)


def test_every_page_is_in_the_site():
    site = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name in site, page.name


def test_public_names_of_ccra_patch_are_documented():
    import ccra_patch

    for name in ccra_patch.__all__:
        assert (getattr(ccra_patch, name).__doc__ or "").strip(), name
