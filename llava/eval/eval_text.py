"""Text metrics of answers to any LLaVA-format JSON: ``python -m llava.eval.eval_text --annotation-file data.json ...``.

Answers are those of :mod:`llava.eval.model_vqa_science`, which asks the first turn of every sample; the reference is
the sample's second turn. See :mod:`llava.eval.text_metrics` for the metrics. BLEU and METEOR are figures of the whole
set, without a score for each question.
"""

import argparse
from collections.abc import Callable

from llava.errors import UserError, exit_on_user_error
from llava.eval.records import read_answers, read_conversations, require_answers
from llava.eval.scores import Metric, record_scores
from llava.eval.text_metrics import Pairs, bertscore, bleu, cider, meteor, rouge_l


def read_pairs(annotation_file: str, result_file: str) -> dict[str, tuple[str, list[str]]]:
    """Answer and reference by question. Raises UserError when a sample has no second turn, or no answer."""
    references = {}
    for sample in read_conversations(annotation_file):
        if len(sample["conversations"]) < 2:
            raise UserError(f"{annotation_file}, sample {sample['id']} has no second turn; it is the reference: add it")
        references[str(sample["id"])] = sample["conversations"][1]["value"]
    answers = read_answers(result_file)
    require_answers(answers, references, result_file)
    return {name: (answers[name]["text"], [reference]) for name, reference in references.items()}


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(prog="llava.eval.eval_text", description="Compare answers with reference texts.")
    parser.add_argument("--annotation-file", type=str, required=True, help="LLaVA-format JSON with the references")
    parser.add_argument("--result-file", type=str, required=True, help="answers, JSON Lines")
    parser.add_argument("--bert-model", type=str, help="folder of the encoder for BERTScore")
    parser.add_argument("--bert-layer", type=int, help="its layer, such as 17 of roberta-large")
    args = parser.parse_args()
    named = read_pairs(args.annotation_file, args.result_file)
    pairs = list(named.values())

    for order, value in enumerate(bleu(pairs), start=1):
        print(f"BLEU-{order}: {value:.4f}")
    _print_unless_absent("METEOR", lambda: meteor(pairs))
    per_question: dict[str, Callable[[Pairs], list[float]]] = {"cider": cider, "rouge_l": rouge_l}
    if args.bert_model is None or args.bert_layer is None:
        print("BERTScore: absent, as it needs the weights of an encoder: --bert-model and --bert-layer")
    else:
        per_question["bertscore"] = lambda texts: bertscore(texts, args.bert_model, args.bert_layer)
    metrics = {
        name: Metric.mean(dict(zip(named, measure(pairs), strict=True)), scale=1)
        for name, measure in per_question.items()
    }
    for name, score in record_scores(args.result_file, metrics).items():
        print(f"{name}: {score.value:.4f} ± {score.standard_error:.4f} (n={score.n})")


def _print_unless_absent(name: str, measure: Callable[[], float]) -> None:
    try:
        print(f"{name}: {measure():.4f}")
    except UserError as error:
        print(f"{name}: absent: {error}")


if __name__ == "__main__":
    main()
