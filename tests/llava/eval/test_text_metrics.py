import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import BertConfig, BertModel, BertTokenizer

from llava.errors import UserError
from llava.eval import eval_text, text_metrics
from llava.eval.scores import read_scores
from llava.eval.text_metrics import bertscore, bleu, cider, meteor, rouge_l, words_of

pytest.importorskip("pycocoevalcap")
PAIRS = [("a cat is on the mat", ["a cat sits on the mat"]), ("two dogs run in the park", ["two dogs run in the park"])]


def test_words_are_lower_case_without_punctuation() -> None:
    assert words_of("It's a Cat: 1,000.5 kg (grey-ish), isn't it?") == "it's a cat 1,000.5 kg grey-ish isn't it"
    assert words_of("\n") == ""


def test_bleu_is_that_of_the_counts() -> None:
    """Of 12 words 11 match, of 10 pairs 5 + 3 = 8, of 8 triples 4 + 1, of 6 quadruples 3 + 0."""
    one, two, three, four = bleu(PAIRS)
    assert one == pytest.approx(11 / 12)
    assert two == pytest.approx((11 / 12 * 8 / 10) ** (1 / 2))
    assert three == pytest.approx((11 / 12 * 8 / 10 * 5 / 8) ** (1 / 3))
    assert four == pytest.approx((11 / 12 * 8 / 10 * 5 / 8 * 3 / 6) ** (1 / 4))


def test_short_texts_pay_the_brevity_penalty() -> None:
    assert bleu([("a cat", ["a cat sat there"])])[0] == pytest.approx(math.exp(1 - 4 / 2))


def test_rouge_l_is_that_of_the_longest_common_subsequence() -> None:
    assert rouge_l(PAIRS) == pytest.approx([5 / 6, 1.0])
    # 2 of 4 words, 2 of 3 of the reference: (1 + 1.44) P R / (R + 1.44 P)
    assert rouge_l([("a b x y", ["a b c"])]) == pytest.approx([2.44 * 0.5 * (2 / 3) / (2 / 3 + 1.44 * 0.5)])


def test_cider_is_ten_for_the_reference_and_zero_for_other_words() -> None:
    texts = [("two dogs run fast", ["two dogs run fast"]), ("nothing of it at all", ["a cat sits there"])]
    assert cider(texts) == pytest.approx([10.0, 0.0], abs=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="METEOR is a Java program")
def test_meteor_knows_a_perfect_match() -> None:
    assert meteor(PAIRS[1:]) == pytest.approx(1.0, abs=1e-3)


def test_without_java_meteor_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_metrics.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="there is no java on PATH; install a Java runtime"):
        meteor(PAIRS)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT of random weights."""
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
    return folder


def test_bertscore_runs_on_a_local_encoder(encoder: Path) -> None:
    pytest.importorskip("bert_score")
    same, other = bertscore([("a cat", ["a dog", "a cat"]), ("a cat", ["dog"])], str(encoder), 2)
    assert same == pytest.approx(1.0, abs=1e-4)
    assert other < same
    with pytest.raises(UserError, match=r"BERTScore's encoder /none cannot be loaded .*; give a local folder"):
        bertscore(PAIRS, "/none", 2)


def test_no_text_is_no_score() -> None:
    with pytest.raises(UserError, match="there is no text to score"):
        bleu([])


def test_answers_are_compared_with_second_turns(
    tmp_path: Path,
    write_lines: Callable[..., str],
    run_main: Callable[..., str],
    refusal: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text_metrics.shutil, "which", lambda name: None)
    samples = [
        {"id": n, "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": references[0]}]}
        for n, (_, references) in enumerate(PAIRS)
    ]
    (tmp_path / "data.json").write_text(json.dumps(samples))
    result = write_lines("a.jsonl", *({"question_id": n, "text": text} for n, (text, _) in enumerate(PAIRS)))
    flags = ("--annotation-file", tmp_path / "data.json", "--result-file", result)
    lines = run_main(eval_text, *flags).splitlines()
    assert lines[0] == "BLEU-1: 0.9167"
    assert lines[4].startswith("METEOR: absent: METEOR is computed by a Java program")
    assert lines[5].startswith("BERTScore: absent, as it needs the weights of an encoder")
    assert lines[7] == "rouge_l: 0.9167 ± 0.0589 (n=2)"
    assert read_scores(result)["rouge_l"].groups[""]["0"] == (pytest.approx(5 / 6), 1.0)
    (tmp_path / "data.json").write_text(json.dumps([{"id": 0, "conversations": [{"value": "?"}]}]))
    assert "sample 0 has no second turn" in refusal(eval_text, *flags)
