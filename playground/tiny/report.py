"""The last page of ``make demo``; see :mod:`playground.report`."""

from playground.report import Page, report

PAGE = Page(
    groups={
        "accuracy": "all questions",
        "binary": "yes or no",
        "open": "open",
        "detailed/exist": "is there a circle?",
        "detailed/existNot": "is there not a circle?",
        "detailed/existAttr": "is there a red shape?",
        "detailed/existAttrNot": "is there not a red shape?",
        "detailed/queryAttr": "what color is the circle?",
        "detailed/queryObj": "what shape is in the image?",
    },
    tier="testdev_balanced",
    shown=("queryObj", "queryAttr", "exist"),
)

if __name__ == "__main__":
    report(PAGE)
