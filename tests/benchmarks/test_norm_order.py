"""The benchmark behind docs/norm_order.md, at a small size: what it prints, and that the page says how to get it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def rows_of(text: str) -> dict[str, list[str]]:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in cells}


def test_as_printed_the_map_is_undone_and_the_norm_first_lets_it_through():
    sizes = ["--layers", "3", "--patches", "20", "--vision-dim", "64", "--text-dim", "48"]
    command = [sys.executable, str(ROOT / "benchmarks" / "norm_order.py"), *sizes]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = rows_of(done.stdout)
    for positive in ("W = 1 everywhere", "W uniform in [0, 10]"):
        post, pre, *_, ratio = rows[positive]
        assert float(post) < 1e-4 < 0.5 < float(pre)
        assert float(ratio.replace(",", "")) > 1e3
    assert float(rows["W normal, deviation 1 (16% below -1)"][0]) > 0.1
    assert {name: float(rows[name][-1].replace(",", "")) > 100 for name in ("LPWCA", "LWCA", "PWCA")} == {
        "LPWCA": True,
        "LWCA": False,
        "PWCA": True,
    }


def test_the_page_shows_the_tables_that_the_benchmark_prints():
    page = (ROOT / "docs" / "norm_order.md").read_text(encoding="utf-8")
    assert "python benchmarks/norm_order.py" in page
    source = (ROOT / "benchmarks" / "norm_order.py").read_text(encoding="utf-8")
    maps = [line.split('"')[1] for line in source.splitlines() if line.startswith('    "W ')]
    assert len(maps) == 4
    assert set(maps) | {"LPWCA", "LWCA", "PWCA"} <= set(rows_of(page))
