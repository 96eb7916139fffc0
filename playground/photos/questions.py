"""Everything one could ask about a scene: the answer, what it is about and how it follows, as GQA tells them.

The ten kinds are generators of :class:`Question`; which of their questions are used is for ``balance`` to decide. In a
template, ``[word](id,id)`` marks a word and the things that it stands for.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import permutations

from playground.photos.ocr import WORDS
from playground.photos.scenes import CLEARLY_LARGER, SIDE, Scene, Thing, side_of

YES_OR_NO = ("yes", "no")
UNCOUNTED = {"broccoli", "garlic", "lettuce"}
SAME_PLURAL = {"fish"}
MARK = re.compile(r"\[([^\]]*)\]\(([^)]*)\)")
# Directions by axis and sign, as a preposition, as GQA names the relation, and as an end of the picture.
DIRECTIONS = {
    (0, -1): ("left of", "to the left of", "on the far left"),
    (0, 1): ("right of", "to the right of", "on the far right"),
    (1, -1): ("above", "above", "at the very top"),
    (1, 1): ("below", "below", "at the very bottom"),
}
OFF_CENTRE = 24  # pixels from the middle, from which on a thing is on one side of the picture

Step = tuple[str, str, tuple[int, ...]]  # operation, argument, steps that it depends on


@dataclass(frozen=True)
class Lexicon:
    """What questions may say: each category's names, the colors of each word's things, and which two names together."""

    names: Mapping[str, tuple[str, ...]]
    colors: Mapping[str, tuple[str, ...]]
    allows: Callable[[str, str], bool]

    @property
    def all_names(self) -> tuple[str, ...]:
        return tuple(name for names in self.names.values() for name in names)

    def knows(self, thing: Thing) -> bool:
        return thing.category == "sign" or thing.name in self.names[thing.category]


@dataclass(frozen=True)
class Question:
    """``template`` has the marks; ``group`` holds the questions among which no answer may be the likely one.

    ``states`` are the facts that question and answer give away, ``rests_on`` those that suffice to answer: a question
    entails all that rest on what it states.
    """

    kind: str
    group: str
    template: str
    answer: str
    sentence: str
    structural: str
    semantic: str
    steps: tuple[Step, ...]
    rests_on: frozenset[str]
    also_states: frozenset[str] = field(default=frozenset())
    options: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return MARK.sub(r"\1", self.template)

    @property
    def family(self) -> str:
        """The groups that ask in the same way about different words, or directions."""
        return self.group.partition(":")[0]

    @property
    def slot(self) -> str:
        """What a blind guess would be about: the answer, or its place among the alternatives that the text names."""
        return ("first", "second")[self.options.index(self.answer)] if self.options else self.answer

    @property
    def states(self) -> frozenset[str]:
        return self.rests_on | self.also_states

    @property
    def annotations(self) -> dict[str, str]:
        """Number of a word of the text -> things that it stands for, by commas; without words that stand for none."""
        found: dict[str, str] = {}
        for mark in MARK.finditer(self.template):
            if mark[2]:
                found[str(len(MARK.sub(r"\1", self.template[: mark.start()]).split()))] = mark[2]
        return found

    @property
    def things(self) -> tuple[str, ...]:
        """Ids of all things that it asks about."""
        return tuple(dict.fromkeys(thing for ids in self.annotations.values() for thing in ids.split(",")))


def marked(word: str, *things: Thing) -> str:
    return f"[{word}]({','.join(thing.id for thing in things)})"


def a(word: str, spoken: str | None = None) -> str:
    """The indefinite article of ``word`` before ``spoken`` (the word, or the word with a mark)."""
    spoken = spoken or word
    if word in UNCOUNTED:
        return spoken
    return f"an {spoken}" if word[0] in "aeiou" else f"a {spoken}"


def plural(word: str) -> str:
    return word if word in SAME_PLURAL else f"{word}s"


def there_is(word: str) -> str:
    return f"there is {word}"


def there_is_no(word: str) -> str:
    return f"there is no {word}"


def select(word: str, *things: Thing) -> Step:
    return ("select", f"{word} ({','.join(thing.id for thing in things) or '-'})", ())


def facts(*statements: str) -> frozenset[str]:
    return frozenset(statements)


def yes_or_no(condition: bool) -> str:
    return YES_OR_NO[0] if condition else YES_OR_NO[1]


def named(scene: Scene, lexicon: Lexicon) -> list[Thing]:
    """Things that "the <name>" tells from all others."""
    return [thing for thing in scene.things if lexicon.knows(thing) and len(scene.called(thing.name)) == 1]


def referred(scene: Scene, lexicon: Lexicon) -> Iterator[tuple[str, Thing]]:
    """Things with a word, name or category, that tells each from all others."""
    for thing in scene.things:
        for word in dict.fromkeys((thing.name, thing.category)):
            if len(scene.called(word)) == 1 and (word == thing.category or lexicon.knows(thing)):
                yield word, thing


def pairs(scene: Scene, lexicon: Lexicon) -> Iterator[tuple[Thing, Thing]]:
    """Ordered pairs of named things that may be spoken of together."""
    for one, other in permutations(named(scene, lexicon), 2):
        if lexicon.allows(one.identity, other.identity):
            yield one, other


def outermost(scene: Scene) -> Iterator[tuple[str, Thing]]:
    """End of the picture and the thing that clearly comes first there."""
    for (axis, sign), (_, _, end) in DIRECTIONS.items():
        for thing in scene.things:
            if all(side_of(thing, other, axis) == sign for other in scene.things if other is not thing):
                yield end, thing


def only_one_beside(scene: Scene, lexicon: Lexicon) -> Iterator[tuple[str, str, Thing, Thing]]:
    """Direction, as preposition and relation, with the only thing there, and a named thing that it is seen from."""
    for seen_from in named(scene, lexicon):
        for (axis, sign), (preposition, relation, _) in DIRECTIONS.items():
            sides = {thing: side_of(thing, seen_from, axis) for thing in scene.things if thing is not seen_from}
            there = [thing for thing, side in sides.items() if side == sign]
            if len(there) == 1 and 0 not in sides.values() and lexicon.allows(there[0].identity, seen_from.identity):
                yield preposition, relation, there[0], seen_from


def absent(scene: Scene, lexicon: Lexicon, draw: random.Random, among: tuple[str, ...], count: int) -> list[str]:
    """Up to ``count`` words that nothing in the scene is called."""
    missing = [word for word in among if not scene.called(word)]
    return draw.sample(missing, min(count, len(missing)))


def presence(scene: Scene, lexicon: Lexicon, draw: random.Random) -> Iterator[Question]:
    words = lexicon.all_names + tuple(category for category in lexicon.names if category not in lexicon.all_names)
    there = [word for word in words if scene.called(word)]
    for word in there + absent(scene, lexicon, draw, words, 2 * len(there)):
        things = scene.called(word)
        yield Question(
            kind="presence",
            group=f"presence: {word}",
            template=f"Is there {a(word, marked(word, *things))} in the picture?",
            answer=yes_or_no(bool(things)),
            sentence=f"Yes, there is {a(word)}." if things else f"No, there is no {word}.",
            structural="verify",
            semantic="obj",
            steps=(select(word, *things), ("exist", "?", (0,))),
            rests_on=facts(there_is(word) if things else there_is_no(word)),
        )


def objects(scene: Scene, lexicon: Lexicon, draw: random.Random) -> Iterator[Question]:
    for category in lexicon.names:
        things = scene.called(category)
        if len(things) == 1 and lexicon.knows(things[0]) and things[0].name != category:
            yield Question(
                kind="object",
                group=f"which: {category}",
                template=f"Which {marked(category, *things)} is in the picture?",
                answer=things[0].name,
                sentence=f"The {category} is {a(things[0].name)}.",
                structural="query",
                semantic="obj",
                steps=(select(category, *things), ("query", "name", (0,))),
                rests_on=facts(there_is(things[0].name)),
                also_states=facts(there_is(category)),
            )
    for end, thing in outermost(scene):
        if lexicon.knows(thing):
            yield Question(
                kind="object",
                group=f"what at: {end}",
                template=f"{marked('What', thing)} is {end}?",
                answer=thing.name,
                sentence=f"{a(thing.name).capitalize()} is {end}.",
                structural="query",
                semantic="obj",
                steps=(
                    select("thing", *scene.things),
                    ("filter position", f"{end} ({thing.id})", (0,)),
                    ("query", "name", (1,)),
                ),
                rests_on=facts(f"{end} {thing.name}"),
                also_states=facts(there_is(thing.name), f"{end} kind {thing.category}"),
            )


def categories(scene: Scene, lexicon: Lexicon, draw: random.Random) -> Iterator[Question]:
    for end, thing in outermost(scene):
        yield Question(
            kind="category",
            group=f"kind at: {end}",
            template=f"What kind of {marked('thing', thing)} is {end}?",
            answer=thing.category,
            sentence=f"{a(thing.category).capitalize()} is {end}.",
            structural="query",
            semantic="cat",
            steps=(
                select("thing", *scene.things),
                ("filter position", f"{end} ({thing.id})", (0,)),
                ("query", "type", (1,)),
            ),
            rests_on=facts(f"{end} kind {thing.category}"),
            also_states=facts(there_is(thing.category)),
        )
    for preposition, relation, thing, seen_from in only_one_beside(scene, lexicon):
        yield Question(
            kind="category",
            group=f"kind beside: {preposition}",
            template=f"What kind of {marked('thing', thing)} is {preposition} the {marked(seen_from.name, seen_from)}?",
            answer=thing.category,
            sentence=f"{a(thing.category).capitalize()} is {preposition} the {seen_from.name}.",
            structural="query",
            semantic="cat",
            steps=(
                select(seen_from.name, seen_from),
                ("relate", f"_,{relation},s ({thing.id})", (0,)),
                ("query", "type", (1,)),
            ),
            rests_on=facts(f"kind {thing.category} {preposition} {seen_from.name}"),
            also_states=facts(there_is(thing.category), there_is(seen_from.name)),
        )


def attributes(scene: Scene, lexicon: Lexicon, draw: random.Random) -> Iterator[Question]:
    for word, thing in referred(scene, lexicon):
        if thing.color is None or thing.color == word:
            continue
        for color in lexicon.colors.get(word, ()):
            yield Question(
                kind="attribute",
                group=f"is color: {word} {color}",
                template=f"Is the {marked(word, thing)} {color}?",
                answer=yes_or_no(color == thing.color),
                sentence=f"{'Yes' if color == thing.color else 'No'}, the {word} is {thing.color}.",
                structural="verify",
                semantic="attr",
                steps=(select(word, thing), ("verify color", color, (0,))),
                rests_on=facts(f"{word} is {thing.color}"),
                also_states=facts(there_is(word)),
            )
        yield Question(
            kind="attribute",
            group=f"color of: {word}",
            template=f"What color is the {marked(word, thing)}?",
            answer=thing.color,
            sentence=f"The {word} is {thing.color}.",
            structural="query",
            semantic="attr",
            steps=(select(word, thing), ("query", "color", (0,))),
            rests_on=facts(f"{word} is {thing.color}"),
            also_states=facts(there_is(word)),
        )
    for end, thing in outermost(scene):
        if thing.color:
            yield Question(
                kind="attribute",
                group=f"color at: {end}",
                template=f"What color is the {marked('thing', thing)} {end}?",
                answer=thing.color,
                sentence=f"The thing {end} is {thing.color}.",
                structural="query",
                semantic="attr",
                steps=(
                    select("thing", *scene.things),
                    ("filter position", f"{end} ({thing.id})", (0,)),
                    ("query", "color", (1,)),
                ),
                rests_on=facts(f"{end} is {thing.color}"),
            )


def counts(scene: Scene, lexicon: Lexicon, draw: random.Random) -> Iterator[Question]:
    for word in ("thing", *lexicon.names):
        things = scene.called(word)
        number = str(len(things))
        yield Question(
            kind="count",
            group=f"count: {word}",
            template=f"How many {marked(plural(word), *things)} are there?",
            answer=number,
            sentence=f"There is {number} {word}." if number == "1" else f"There are {number} {plural(word)}.",
            structural="query",
            semantic="obj",
            steps=(select(word, *things), ("count", "?", (0,))),
            rests_on=facts(f"{number} {word}"),
            also_states=facts(there_is(word) if things else there_is_no(word)),
        )


def relations(scene: Scene, lexicon: Lexicon, draw: random.Random) -> Iterator[Question]:
    for one, other in pairs(scene, lexicon):
        for (axis, sign), (preposition, relation, _) in DIRECTIONS.items():
            if side := side_of(one, other, axis):
                true_one, opposite = DIRECTIONS[axis, side][0], DIRECTIONS[axis, -side][0]
                yield Question(
                    kind="relation",
                    group=f"is: {preposition}",
                    template=f"Is the {marked(one.name, one)} {preposition} the {marked(other.name, other)}?",
                    answer=yes_or_no(side == sign),
                    sentence=f"{'Yes' if side == sign else 'No'}, the {one.name} is {true_one} the {other.name}.",
                    structural="verify",
                    semantic="rel",
                    steps=(
                        select(other.name, other),
                        ("verify rel", f"{one.name},{relation},s ({one.id})", (0,)),
                    ),
                    rests_on=facts(f"{one.name} {true_one} {other.name}"),
                    also_states=facts(f"{other.name} {opposite} {one.name}", there_is(one.name), there_is(other.name)),
                )
    for preposition, relation, thing, seen_from in only_one_beside(scene, lexicon):
        if lexicon.knows(thing):
            yield Question(
                kind="relation",
                group=f"what: {preposition}",
                template=f"{marked('What', thing)} is {preposition} the {marked(seen_from.name, seen_from)}?",
                answer=thing.name,
                sentence=f"{a(thing.name).capitalize()} is {preposition} the {seen_from.name}.",
                structural="query",
                semantic="rel",
                steps=(
                    select(seen_from.name, seen_from),
                    ("relate", f"_,{relation},s ({thing.id})", (0,)),
                    ("query", "name", (1,)),
                ),
                rests_on=facts(f"{thing.name} {preposition} {seen_from.name}"),
                also_states=facts(
                    there_is(thing.name),
                    there_is(seen_from.name),
                    f"kind {thing.category} {preposition} {seen_from.name}",
                ),
            )


def comparisons(scene: Scene, lexicon: Lexicon, draw: random.Random) -> Iterator[Question]:
    for one, other in pairs(scene, lexicon):
        larger, smaller = (one, other) if one.size > other.size else (other, one)
        if larger.size < CLEARLY_LARGER * smaller.size:
            continue
        rests_on = facts(f"{larger.name} larger than {smaller.name}")
        also_states = facts(there_is(one.name), there_is(other.name))
        selected = (select(one.name, one), select(other.name, other))
        yield Question(
            kind="comparison",
            group="which larger",
            template=f"Which is larger, the {marked(one.name, one)} or the {marked(other.name, other)}?",
            answer=larger.name,
            sentence=f"The {larger.name} is larger than the {smaller.name}.",
            structural="compare",
            semantic="attr",
            steps=(*selected, ("choose larger", "", (0, 1))),
            rests_on=rests_on,
            also_states=also_states,
            options=(one.name, other.name),
        )
        yield Question(
            kind="comparison",
            group="is larger",
            template=f"Is the {marked(one.name, one)} larger than the {marked(other.name, other)}?",
            answer=yes_or_no(one is larger),
            sentence=f"{'Yes' if one is larger else 'No'}, the {larger.name} is larger than the {smaller.name}.",
            structural="compare",
            semantic="attr",
            steps=(*selected, ("verify larger", "", (0, 1))),
            rests_on=rests_on,
            also_states=also_states,
        )


def choices(scene: Scene, lexicon: Lexicon, draw: random.Random) -> Iterator[Question]:
    for thing in named(scene, lexicon):
        offset = thing.centre[0] - SIDE / 2
        if abs(offset) >= OFF_CENTRE:
            side = "right" if offset > 0 else "left"
            yield Question(
                kind="choose",
                group="choose side",
                template=f"Is the {marked(thing.name, thing)} on the left or on the right?",
                answer=side,
                sentence=f"The {thing.name} is on the {side}.",
                structural="choose",
                semantic="attr",
                steps=(select(thing.name, thing), ("choose hposition", "left|right", (0,))),
                rests_on=facts(f"{thing.name} on the {side}"),
                also_states=facts(there_is(thing.name)),
            )
        rivals = lexicon.names.get(thing.category, ())
        for rival in absent(scene, lexicon, draw, rivals, 1):
            if lexicon.allows(thing.identity, rival):
                options = draw.sample((thing.name, rival), 2)
                spoken = [a(word, marked(word, *scene.called(word))) for word in options]
                yield Question(
                    kind="choose",
                    group="choose name",
                    template=f"Which is in the picture, {spoken[0]} or {spoken[1]}?",
                    answer=thing.name,
                    sentence=f"There is {a(thing.name)} in the picture.",
                    structural="choose",
                    semantic="obj",
                    steps=(select(thing.category, thing), ("choose name", "|".join(options), (0,))),
                    rests_on=facts(there_is(thing.name), there_is_no(rival)),
                    options=tuple(options),
                )
    for word, thing in referred(scene, lexicon):
        for color in lexicon.colors.get(word, ()):
            if thing.color not in (None, word, color):
                first, second = sorted((thing.color, color))
                yield Question(
                    kind="choose",
                    group=f"choose color: {word} {first} or {second}",
                    template=f"Is the {marked(word, thing)} {first} or {second}?",
                    answer=thing.color,
                    sentence=f"The {word} is {thing.color}.",
                    structural="choose",
                    semantic="attr",
                    steps=(select(word, thing), ("choose color", f"{first}|{second}", (0,))),
                    rests_on=facts(f"{word} is {thing.color}"),
                    also_states=facts(there_is(word)),
                )


def logic(scene: Scene, lexicon: Lexicon, draw: random.Random) -> Iterator[Question]:
    there = list(dict.fromkeys(thing.name for thing in scene.things if lexicon.knows(thing) and thing.name != "sign"))
    missing = absent(scene, lexicon, draw, lexicon.all_names, len(there) + 1)
    words = there + missing
    for one, other in permutations(words, 2):
        if not lexicon.allows(one, other):
            continue
        first, second = scene.called(one), scene.called(other)
        spoken = f"{a(one, marked(one, *first))} {{}} {a(other, marked(other, *second))}"
        known = facts(*(there_is(word) if scene.called(word) else there_is_no(word) for word in (one, other)))
        both, either = bool(first and second), bool(first or second)
        steps = (select(one, *first), ("exist", "?", (0,)), select(other, *second), ("exist", "?", (2,)))
        yield Question(
            kind="logical",
            group="and",
            template=f"Are there both {spoken.format('and')}?",
            answer=yes_or_no(both),
            sentence=f"{'Yes' if both else 'No'}, there are {'' if both else 'not '}both {a(one)} and {a(other)}.",
            structural="logical",
            semantic="obj",
            steps=(*steps, ("and", "", (1, 3))),
            rests_on=known if both else frozenset(sorted(fact for fact in known if " no " in fact)[:1]),
        )
        yield Question(
            kind="logical",
            group="or",
            template=f"Is there either {spoken.format('or')}?",
            answer=yes_or_no(either),
            sentence="Yes, at least one of them is there." if either else f"No, there is no {one} and no {other}.",
            structural="logical",
            semantic="obj",
            steps=(*steps, ("or", "", (1, 3))),
            rests_on=frozenset(sorted(fact for fact in known if " no " not in fact)[:1]) if either else known,
        )


def writing(scene: Scene, lexicon: Lexicon, draw: random.Random) -> Iterator[Question]:
    signs = scene.called("sign")
    if len(signs) != 1:
        return
    (sign,) = signs
    for group, template in (
        ("sign: what", f"What does the {marked('sign', sign)} say?"),
        ("sign: which word", f"Which word is on the {marked('sign', sign)}?"),
    ):
        yield Question(
            kind="ocr",
            group=group,
            template=template,
            answer=sign.word,
            sentence=f"The sign says {sign.word}.",
            structural="query",
            semantic="attr",
            steps=(select("sign", sign), ("query", "text", (0,))),
            rests_on=facts(f"sign says {sign.word}"),
            also_states=facts(there_is("sign")),
        )
    for word in (sign.word, draw.choice([word for word in WORDS if word != sign.word])):
        yield Question(
            kind="ocr",
            group=f"sign says: {word}",
            template=f"Does the {marked('sign', sign)} say {word}?",
            answer=yes_or_no(word == sign.word),
            sentence=f"{'Yes' if word == sign.word else 'No'}, the sign says {sign.word}.",
            structural="verify",
            semantic="attr",
            steps=(select("sign", sign), ("verify text", word, (0,))),
            rests_on=facts(f"sign says {sign.word}"),
            also_states=facts(there_is("sign")),
        )


KINDS: dict[str, Callable[[Scene, Lexicon, random.Random], Iterator[Question]]] = {
    "presence": presence,
    "object": objects,
    "category": categories,
    "attribute": attributes,
    "count": counts,
    "relation": relations,
    "comparison": comparisons,
    "choose": choices,
    "logical": logic,
    "ocr": writing,
}


def ask(scene: Scene, lexicon: Lexicon, draw: random.Random) -> Iterator[Question]:
    """All questions of all kinds about one scene."""
    for kind in KINDS.values():
        yield from kind(scene, lexicon, draw)
