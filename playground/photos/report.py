"""The last page of ``make demo-photos``: a table for each test tier; see :mod:`playground.report`."""

from playground.report import Page, report

TYPES = (
    "presence",
    "object",
    "category",
    "attribute",
    "count",
    "relation",
    "comparison",
    "choose",
    "logical",
    "ocr",
)
PAGE = Page(
    groups={"accuracy": "all questions", "binary": "closed", "open": "open"}
    | {f"detailed/{name}": name for name in TYPES},
    tier="test_combinations_balanced",
    shown=("relation", "object", "attribute"),
)

if __name__ == "__main__":
    report(PAGE)
