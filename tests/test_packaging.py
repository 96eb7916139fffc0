"""setup.py: what the code imports is declared, and what is declared has its bounds and reasons."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {
    "ccra_patch",
    "llava",
    "playground",
    "conftest",
    "reference",
}  # the last two are among the tests, and benchmarks use them: tiny checkpoints, and the oracle
DISTRIBUTION = {  # where the name to import is not the name to install
    "PIL": "pillow",
    "bitsandbytes": "bitsandbytes",
    "easy_vqa": "easy-vqa",
    "flash_attn": "flash-attn",
    "google": "protobuf",
}
IMPORTED_WHEN_ASKED_FOR = {"kernels_numba.py", "kernels_triton.py"}  # whole modules that need an optional package
COMES_WITH = {"huggingface_hub": "transformers", "tokenizers": "transformers", "yaml": "transformers"}


def declarations() -> dict[str, list[str]]:
    """The requirement lists of setup.py, by extra; ``""`` is the base."""
    values = {}
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            values[node.targets[0].id] = ast.literal_eval(node.value)
    return {"": values["REQUIRES"]} | values["EXTRAS"]


def names(requirements: list[str]) -> set[str]:
    return {re.match(r"[A-Za-z0-9_-]+", requirement)[0] for requirement in requirements}


def imported(path: Path, top_level_only: bool = False) -> set[str]:
    """Names of the packages that a file imports."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


def third_party(package: str, top_level_only: bool = False) -> set[str]:
    """Distributions that the Python files of a folder import, apart from those that a declared one brings along."""
    files = list((ROOT / package).rglob("*.py"))
    if top_level_only:
        files = [path for path in files if path.name not in IMPORTED_WHEN_ASKED_FOR]
    found = set().union(*(imported(path, top_level_only) for path in files))
    neighbours = {path.stem for path in (ROOT / package).rglob("*.py")}
    found -= set(sys.stdlib_module_names) | OURS | neighbours | set(COMES_WITH)
    return {DISTRIBUTION.get(name, name) for name in found}


@pytest.mark.parametrize("package", ["llava", "ccra_patch", "playground", "scripts", "benchmarks"])
def test_every_import_is_declared(package: str) -> None:
    assert third_party(package) <= set().union(*map(names, declarations().values()))


@pytest.mark.parametrize("package", ["llava/model", "llava/train", "ccra_patch"])
def test_what_is_imported_at_the_top_is_in_the_base(package: str) -> None:
    """An optional package must be imported where it is used, so that the rest works without it."""
    assert third_party(package, top_level_only=True) <= names(declarations()[""])


def test_ccra_patch_needs_torch_and_einops_only() -> None:
    """Its commands count with numpy too; pictures need matplotlib and Pillow, which are imported when there is one."""
    assert third_party("ccra_patch", top_level_only=True) <= {"torch", "einops", "numpy"}
    library = {path.stem for path in (ROOT / "ccra_patch").glob("*.py") if "numpy" in imported(path, True)}
    assert library == {"kernels_numba", "pointing", "summary"}


def test_torchvision_is_never_asked_for() -> None:
    for requirements in declarations().values():
        assert "torchvision" not in names(requirements)
    for package in ("llava", "ccra_patch", "playground", "benchmarks"):
        assert "torchvision" not in third_party(package)


def test_every_bound_carries_its_reason() -> None:
    lines = (ROOT / "setup.py").read_text().splitlines()
    for requirements in declarations().values():
        for requirement in requirements:
            line = next(line for line in lines if f'"{requirement}"' in line)
            assert re.search(r"[<>]=?\d", requirement), requirement
            assert re.search(r"# \S+", line), line
