import argparse

import pytest

from llava.eval import model_vqa_loader, run_llava
from llava.eval.settings import add_driver_flags

COMMON_FLAGS = (
    *("--model-path", "--model-base", "--image-folder", "--question-file", "--answers-file", "--conv-mode"),
    *("--num-chunks", "--chunk-idx", "--temperature"),
)
SAMPLING_FLAGS = ("--top_p", "--num_beams")
# What upstream's drivers have beside the common flags: those that this project's function adds, and their own.
DRIVERS = {
    "model_vqa": ({}, SAMPLING_FLAGS, ()),
    "model_vqa_loader": ({"max_new_tokens": 128}, (*SAMPLING_FLAGS, "--max_new_tokens"), ()),
    "model_vqa_mmbench": ({}, SAMPLING_FLAGS, ("--all-rounds", "--single-pred-prompt", "--lang")),
    "model_vqa_science": ({"sampling_flags": False}, (), ("--answer-prompter", "--single-pred-prompt")),
}


def unique_prefixes(flags: tuple[str, ...]) -> list[tuple[str, str]]:
    known = (*flags, "--help")
    prefixes = [(flag[:length], flag) for flag in flags for length in range(3, len(flag) + 1)]
    return [(prefix, flag) for prefix, flag in prefixes if sum(other.startswith(prefix) for other in known) == 1]


@pytest.mark.parametrize("driver", DRIVERS)
def test_every_abbreviation_that_upstream_understands_still_works(driver: str) -> None:
    settings, shared, own = DRIVERS[driver]
    parser = argparse.ArgumentParser()
    add_driver_flags(parser, **settings)
    for flag in own:
        parser.add_argument(flag)
    prefixes = unique_prefixes(COMMON_FLAGS + shared + own)
    assert {("--q", "--question-file"), ("--model-p", "--model-path")} <= set(prefixes)
    assert (("--n", "--num-chunks") in prefixes) == (driver == "model_vqa_science")
    for prefix, flag in prefixes:
        parsed = vars(parser.parse_args([prefix, "1"]))
        assert str(parsed[flag.removeprefix("--").replace("-", "_")]).startswith("1"), prefix


def test_the_loader_has_upstreams_defaults() -> None:
    args = vars(model_vqa_loader.build_parser().parse_args([]))
    ours = {name: args.pop(name) for name in ("batch_size", "workers", "random_seed", "resume")}
    assert args == {
        "model_path": "facebook/opt-350m",
        "model_base": None,
        "image_folder": "",
        "question_file": "tables/question.jsonl",
        "answers_file": "answer.jsonl",
        "conv_mode": "llava_v1",
        "num_chunks": 1,
        "chunk_idx": 0,
        "temperature": 0.2,
        "top_p": None,
        "num_beams": 1,
        "max_new_tokens": 128,
    }
    assert (ours["batch_size"], ours["resume"]) == (1, False)


def test_run_llava_has_upstreams_flags() -> None:
    args = vars(run_llava.build_parser().parse_args(["--image-file", "a.png", "--query", "What?"]))
    assert args == {
        "model_path": "facebook/opt-350m",
        "model_base": None,
        "image_file": "a.png",
        "query": "What?",
        "conv_mode": None,
        "sep": ",",
        "temperature": 0.2,
        "top_p": None,
        "num_beams": 1,
        "max_new_tokens": 512,
    }
