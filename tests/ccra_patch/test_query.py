"""select_query on a toy vocabulary: a slow, obvious reading of the rule is the oracle."""

import itertools
import json
import random

import pytest
import torch

from ccra_patch.query import QueryMarkers, select_query

BOS, EOS, PAD, IMAGE = 1, 2, 0, -200
USER, COLON, BOT = 10, 11, 20
MARKERS = QueryMarkers(open=((USER, COLON),), close=((BOT, COLON),), skip=(BOS, EOS))


def selected(ids: list[int], markers: QueryMarkers = MARKERS, mode: str = "human", mask: list[int] | None = None):
    attention_mask = None if mask is None else torch.tensor([mask])
    chosen = select_query(torch.tensor([ids]), attention_mask, markers, mode)
    assert chosen.dtype == torch.bool
    return [token for token, keep in zip(ids, chosen[0].tolist(), strict=True) if keep]


def obvious(ids: list[int], mask: list[int], markers: QueryMarkers, mode: str) -> list[bool]:
    """The rule in plain loops."""
    ids = [token if keep else -1 for token, keep in zip(ids, mask, strict=True)]
    kinds = [(m, True) for m in markers.open] + [(m, False) for m in markers.close]
    matches = []
    for start in range(len(ids)):
        here = [(len(m), is_open) for m, is_open in kinds if tuple(ids[start : start + len(m)]) == m]
        if here:
            length, is_open = max(here)
            if not any(start + length <= end for _, end, _ in matches):
                matches.append((start, start + length, is_open))
    turns: dict[int, list[int]] = {}
    for place, token in enumerate(ids):
        before = [match for match in matches if match[0] <= place]
        in_marker = any(start <= place < end for start, end, _ in matches)
        if before and before[-1][2] and not in_marker and token >= 0 and token not in markers.skip:
            turns.setdefault(before[-1][0], []).append(place)
    numbers = sorted(turns)
    wanted = {"human": numbers, "first": numbers[:1], "last": numbers[-1:]}[mode]
    keep = {place for number in wanted for place in turns[number]}
    return [place in keep for place in range(len(ids))]


DIALOGUE = [BOS, 50, 51, USER, COLON, IMAGE, 60, 61, BOT, COLON, 70, EOS, USER, COLON, 62, BOT, COLON, 71, EOS]


@pytest.mark.parametrize(("mode", "expected"), [("human", [60, 61, 62]), ("first", [60, 61]), ("last", [62])])
def test_modes_take_human_turns_without_system_roles_image_and_answers(mode, expected):
    assert selected(DIALOGUE, mode=mode) == expected


@pytest.mark.parametrize("mode", ["human", "first", "last"])
def test_the_answer_never_changes_the_query(mode):
    answered = [*DIALOGUE, 72, 73, EOS]
    prompt = DIALOGUE[:17]
    assert selected(answered, mode=mode) == selected(prompt, mode=mode) == selected(DIALOGUE, mode=mode)


def test_first_and_last_pass_over_empty_turns():
    ids = [USER, COLON, IMAGE, BOT, COLON, 70, USER, COLON, 61, BOT, COLON, 71, USER, COLON, BOS, BOT, COLON]
    assert selected(ids, mode="first") == selected(ids, mode="last") == [61]


def test_padding_on_either_side_is_ignored_even_where_it_looks_like_text():
    turn = [USER, COLON, 60, 61, BOT, COLON]
    right = selected([*turn, USER, COLON, 99], mask=[1] * 6 + [0] * 3)
    left = selected([USER, COLON, 99, *turn], mask=[0] * 3 + [1] * 6)
    assert left == right == [60, 61]


def test_a_marker_cut_by_padding_is_no_marker():
    assert selected([USER, COLON, 60], mask=[0, 1, 1]) == []


def test_without_an_opener_nothing_is_selected():
    assert selected([BOS, 50, 60, BOT, COLON, 70]) == []
    assert selected([]) == []
    assert selected([USER]) == []


def test_two_openers_in_a_row_are_two_turns():
    ids = [USER, COLON, 60, USER, COLON, 61]
    assert selected(ids) == [60, 61]
    assert selected(ids, mode="last") == [61]


def test_the_longest_marker_at_a_position_wins():
    # "[INST]" opens, "[INST] <<SYS>>" closes, "<</SYS>>" opens: the system prompt of Llama 2 is no question
    inst, sys, end_sys, close = 30, 31, 32, 33
    markers = QueryMarkers(open=((inst,), (end_sys,)), close=((inst, sys), (close,)))
    assert selected([inst, sys, 50, 51, end_sys, 60, close, 70, inst, 61, close], markers) == [60, 61]


def test_a_marker_inside_a_longer_one_is_ignored():
    markers = QueryMarkers(open=((5, 6, 7),), close=((6,),))
    assert selected([5, 6, 7, 60, 6, 61], markers) == [60]


def test_random_sequences_agree_with_the_obvious_reading():
    markers = QueryMarkers(open=((5,), (5, 6, 7), (6, 5)), close=((6,), (5, 6), (7, 7)), skip=(1,))
    draw = random.Random(0)
    ids = [[draw.choice([5, 5, 6, 6, 7, 1, 40, 41, IMAGE]) for _ in range(14)] for _ in range(300)]
    mask = [[0] * (n % 4) + [1] * (14 - n % 4 - n % 3) + [0] * (n % 3) for n in range(300)]
    for mode in ("human", "first", "last"):
        got = select_query(torch.tensor(ids), torch.tensor(mask), markers, mode).tolist()
        assert got == [obvious(row, keep, markers, mode) for row, keep in zip(ids, mask, strict=True)]
    assert any(itertools.chain.from_iterable(got))


def test_markers_survive_json():
    data = json.loads(json.dumps(MARKERS.to_dict()))
    assert QueryMarkers.from_dict(data) == MARKERS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"open": ((),), "close": ()}, "open holds an empty marker"),
        ({"open": ((1, -200),), "close": ()}, r"open holds \[1, -200\]; token ids of a marker must be at least 0"),
        ({"open": ((1,),), "close": ((1,),)}, r"\[1\] is in open and in close; keep it in one of them"),
        ({"open": (), "close": (), "skip": (-1,)}, r"skip holds \[-1\]"),
    ],
)
def test_markers_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        QueryMarkers(**arguments)


def test_wrong_arguments_are_named():
    ids = torch.zeros(2, 3, dtype=torch.long)
    with pytest.raises(ValueError, match=r"mm_ccra_query is 'lst'; .* did you mean 'last'"):
        select_query(ids, None, MARKERS, "lst")
    with pytest.raises(ValueError, match=r"attention_mask has the shape \[2, 4\], input_ids \[2, 3\]"):
        select_query(ids, torch.ones(2, 4), MARKERS, "human")
    with pytest.raises(ValueError, match=r"input_ids has the shape \[3\]"):
        select_query(ids[0], None, MARKERS, "human")
    with pytest.raises(ValueError, match=r"keys \['open'\]; they must be open, close and skip"):
        QueryMarkers.from_dict({"open": []})
