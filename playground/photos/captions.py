"""Captions and descriptions for stage 1: what is in a scene, where, and in which colors."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence

from playground.photos.questions import DIRECTIONS, a, plural, yes_or_no
from playground.photos.scenes import Scene, Thing, side_of

NUMBERS = ("no", "one", "two", "three", "four", "five")
INSTRUCTIONS = (
    "Describe this picture in a few words.",
    "What does the picture show?",
    "Name what you see.",
    "Give a short caption for the image.",
)


def caption(scene: Scene, draw: random.Random) -> str:
    """One of three ways to tell about the scene, whichever apply: all things, one beside another, two with colors."""
    ways = [listed(scene), *beside(scene, draw), *colored(scene, draw)]
    return draw.choice(ways)


def spoken(thing: Thing) -> str:
    return f"a sign that says {thing.word}" if thing.category == "sign" else a(thing.name)


def joined(phrases: list[str]) -> str:
    *others, last = phrases
    return f"{', '.join(others)} and {last}" if others else last


def listed(scene: Scene) -> str:
    """``two ducks, an apple and a sign that says stop``"""
    numbers = Counter(thing.name for thing in scene.things)
    phrases = {
        thing.name: spoken(thing)
        if numbers[thing.name] == 1
        else f"{NUMBERS[numbers[thing.name]]} {plural(thing.name)}"
        for thing in scene.things
    }
    return joined(list(phrases.values()))


def beside(scene: Scene, draw: random.Random) -> list[str]:
    """``a duck left of an apple``, for each clear pair one of its directions."""
    phrases = []
    for one in scene.things:
        for other in scene.things:
            for axis in (0, 1):
                if one.name != other.name and (side := side_of(one, other, axis)):
                    phrases.append(f"{spoken(one)} {DIRECTIONS[axis, side][0]} {spoken(other)}")
    return draw.sample(phrases, min(2, len(phrases)))


def colored(scene: Scene, draw: random.Random) -> list[str]:
    """``a green duck and a red apple``"""
    phrases = [f"{a(thing.color)} {thing.name}" for thing in scene.things if thing.color and thing.color != thing.name]
    different = list(dict.fromkeys(phrases))
    return [joined(draw.sample(different, min(2, len(different))))] if different else []


def descriptions(scene: Scene, names: Sequence[str]) -> list[tuple[str, str]]:
    """Instructions with answers that tell much in few words, about the scene and which of all ``names`` it lacks.

    Such an answer can only be had patch by patch: a caption's next word is easy to guess from its last one.
    """
    draw = random.Random(f"descriptions {scene.id}")

    def listed(things: Iterable[Thing]) -> str:
        return ", ".join(thing.word if thing.category == "sign" else thing.name for thing in things)

    here = [thing for thing in scene.things if thing.category != "sign"]
    asked = draw.sample([*{thing.name for thing in here}, *draw.sample(names, 5)], k=5 + len({t.name for t in here}))
    colored = [thing for thing in here if thing.color]
    kinds = Counter(thing.category for thing in scene.things)
    told = [
        ("List all from left to right.", listed(sorted(scene.things, key=lambda thing: thing.centre[0]))),
        ("List all from top to bottom.", listed(sorted(scene.things, key=lambda thing: thing.centre[1]))),
        ("List all from large to small.", listed(sorted(scene.things, key=lambda thing: -thing.size))),
        ("Which of these are there?", ", ".join(f"{name} {yes_or_no(bool(scene.called(name)))}" for name in asked)),
        ("List all kinds.", ", ".join(f"{thing.name} {thing.category}" for thing in here)),
        ("Count all.", f"{len(scene.things)}: " + ", ".join(f"{kind} {number}" for kind, number in kinds.items())),
        ("List all colors.", ", ".join(f"{thing.name} {thing.color}" for thing in colored)),
    ]
    return [(instruction, answer) for instruction, answer in told if answer]
