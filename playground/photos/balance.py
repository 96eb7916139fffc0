"""Which questions to ask, so that their words alone tell little about the answers; and how much they still tell.

GQA smooths the answers within each group of alike questions (Hudson and Manning, CVPR 2019, section 3.4). Here every
answer of a group is asked for equally often, as far as there are such questions.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from playground.photos.questions import KINDS, Question

# A text as such says which answer is likely once it was asked this often in training.
SEEN = 4


Candidate = tuple[str, Question]  # a question with the id of its picture


def balanced(candidates: Sequence[Candidate], size: int, draw: random.Random) -> list[Candidate]:
    """``size`` candidates: of each kind equally many; its families, their groups and answers as even as may be."""
    groups: dict[str, dict[str, dict[str, list[Candidate]]]] = {kind: {} for kind in KINDS}
    for candidate in candidates:
        question = candidate[1]
        groups[question.kind].setdefault(question.family, {}).setdefault(question.group, []).append(candidate)
    chosen: list[Candidate] = []
    for place, families in enumerate(groups.values()):
        orders = [[interleaved(group, draw) for _, group in sorted(family.items())] for family in families.values()]
        quota = size // len(KINDS) + (place < size % len(KINDS))
        shares = even_shares([sum(map(len, order)) for order in orders], quota)
        for family_orders, share in zip(orders, shares, strict=True):
            for order, part in zip(
                family_orders, even_shares([len(order) for order in family_orders], share), strict=True
            ):
                chosen += order[:part]
    draw.shuffle(chosen)
    return chosen


def even_shares(capacities: Sequence[int], size: int) -> list[int]:
    """Split ``size``: what one cannot take goes to the others. They sum to less where all are full."""
    shares = [0] * len(capacities)
    smallest_first = sorted(range(len(capacities)), key=lambda index: capacities[index])
    for place, index in enumerate(smallest_first):
        shares[index] = min(capacities[index], (size - sum(shares)) // (len(capacities) - place))
    return shares


def interleaved(group: Sequence[Candidate], draw: random.Random) -> list[Candidate]:
    """A group in rounds of one question per answer, so that any beginning of it is balanced.

    There are as many rounds as at least half of the answers can fill; of two answers, both. A group that has one answer
    only has no rounds.
    """
    slots: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in group:
        slots[candidate[1].slot].append(candidate)
    if len(slots) < 2:
        return []
    pools = [draw.sample(pool, len(pool)) for _, pool in sorted(slots.items())]
    rounds = sorted(len(pool) for pool in pools)[(len(pools) - 1) // 2]
    order = []
    for turn in range(rounds):
        order += draw.sample(there := [pool[turn] for pool in pools if turn < len(pool)], len(there))
    return order


class Blind:
    """Guesses without the picture: the likeliest answer to a text in training, or to its group if the text is rare."""

    def __init__(self, training: Iterable[Question]) -> None:
        self.texts: dict[str, Counter[str]] = defaultdict(Counter)
        self.groups: dict[str, Counter[str]] = defaultdict(Counter)
        for question in training:
            self.texts[question.text][question.slot] += 1
            self.groups[question.group][question.slot] += 1

    def guess(self, question: Question) -> str | None:
        """The answer's slot; None for a question whose like was never asked."""
        for seen, enough in ((self.texts.get(question.text), SEEN), (self.groups.get(question.group), 1)):
            if seen and seen.total() >= enough:
                return min(seen, key=lambda slot: (-seen[slot], slot))
        return None


@dataclass(frozen=True)
class Guessing:
    """Of ``questions`` questions of one kind, the share that is right by ``chance`` and by a ``blind`` majority."""

    questions: int
    chance: float
    blind: float


def guessing(training: Sequence[Question], tier: Sequence[Question]) -> dict[str, Guessing]:
    """By kind, and ``all``. Chance is one in as many answers as are known of the question's group."""
    blind = Blind(training)
    answers: dict[str, set[str]] = defaultdict(set)
    for question in chain(training, tier):
        answers[question.group].add(question.slot)
    marks: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for question in tier:
        mark = (1 / len(answers[question.group]), blind.guess(question) == question.slot)
        for kind in (question.kind, "all"):
            marks[kind].append(mark)
    return {
        kind: Guessing(len(marks[kind]), *(sum(column) / len(marks[kind]) for column in zip(*marks[kind], strict=True)))
        for kind in (*KINDS, "all")
        if kind in marks
    }
