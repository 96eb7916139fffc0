#!/usr/bin/env bash
# MM-Vet: answers the questions, and has a judge mark them if there is one.
#
#   CKPT=./checkpoints/llava-v1.5-7b-ccra bash scripts/v1_5/eval/mmvet.sh
#
# Defaults:
#   DATA=EVAL_DATA/mm-vet           the benchmark's folder, or EVAL_DATA/mmvet
#   IMAGES=DATA/images              pictures that the questions name
#   ANSWERS=DATA/answers/NAME       gets ANSWERS.jsonl
#   RESULTS=DATA/results/NAME.json  the answers as MM-Vet's evaluator takes them
#
# The judge is any OpenAI-compatible endpoint: OPENAI_API_KEY, OPENAI_BASE_URL, JUDGE_MODEL (llava/eval/judge.py).

set -euo pipefail
# shellcheck source=scripts/lib/evaluate.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../lib/evaluate.sh"

: "${DATA:=$(existing_folder "$$EVAL_DATA/mm-vet" "$$EVAL_DATA/mmvet")}"
: "${IMAGES:=$DATA/images}"
: "${ANSWERS:=$DATA/answers/$NAME}"
: "${RESULTS:=$DATA/results/$NAME.json}"

require_tree "$DATA" \
    llava-mm-vet.jsonl "questions as LLaVA asks them (its eval.zip)"
require_images "MM-Vet's pictures"

answer_questions "$DATA/llava-mm-vet.jsonl" "$ANSWERS" "$ANSWERS.jsonl" \
    llava.eval.model_vqa --image-folder "$IMAGES" "$@"

python scripts/convert_mmvet_for_eval.py --src "$ANSWERS.jsonl" --dst "$RESULTS"
if has_judge; then
    require_tree "$DATA" mm-vet.json "MM-Vet's questions with answers"
    python -m llava.eval.eval_mmvet --annotation "$DATA/mm-vet.json" --prediction "$RESULTS" --answers "$ANSWERS.jsonl"
    show_result mmvet "$ANSWERS.jsonl" mmvet_total
else
    show_result mmvet "$ANSWERS.jsonl" mmvet_total "no judge: set OPENAI_API_KEY, or give $RESULTS to MM-Vet's evaluator"
fi
