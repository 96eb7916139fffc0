"""docs/differences.md: each row names a test, and the test exists."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "differences.md"
ROWS = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ") and "::" in line]


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


def test_there_are_rows_and_each_is_whole() -> None:
    assert len(ROWS) > 40
    for row in ROWS:
        assert len(cells(row)) == 5, row
        assert all(cells(row)[1:]), row


@pytest.mark.parametrize("reference", [cells(row)[-1].strip("`") for row in ROWS])
def test_the_named_test_exists(reference: str) -> None:
    file, name = reference.split("::")
    assert re.search(rf"^\s*def {name}\(", (TESTS / file).read_text(encoding="utf-8"), flags=re.MULTILINE), reference
