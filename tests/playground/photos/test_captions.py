import random

from playground.photos.captions import caption, listed
from playground.photos.scenes import Scene, Thing


def thing(number: int, name: str, x: int, color: str | None) -> Thing:
    source = "sign/stop" if name == "sign" else name
    return Thing(str(number), name, name, source, color, x, 80, 50, 50, 2000)


SCENE = Scene("1", (thing(1, "fox", 0, "brown"), thing(2, "owl", 100, None), thing(3, "owl", 150, "white")))


def test_three_ways_to_tell_a_scene() -> None:
    told = {caption(SCENE, random.Random(seed)) for seed in range(60)}
    assert "a fox and two owls" in told
    assert told & {"a brown fox and a white owl", "a white owl and a brown fox"}
    assert "a fox left of an owl" in told
    assert "a fox right of an owl" not in told
    assert not any("owl left of an owl" in one for one in told)


def test_signs_say_their_word() -> None:
    scene = Scene("1", (thing(1, "fox", 0, None), thing(2, "sign", 100, None), thing(3, "cow", 150, None)))
    assert listed(scene) == "a fox, a sign that says stop and a cow"
