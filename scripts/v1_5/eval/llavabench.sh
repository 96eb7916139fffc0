#!/usr/bin/env bash
# LLaVA-Bench (In-the-Wild): answers the questions, and has a judge compare them with GPT-4's if there is one.
#
#   CKPT=./checkpoints/llava-v1.5-7b-ccra bash scripts/v1_5/eval/llavabench.sh
#
# Defaults:
#   DATA=EVAL_DATA/llava-bench-in-the-wild  the benchmark's folder
#   IMAGES=DATA/images                      pictures that the questions name
#   ANSWERS=DATA/answers/NAME               gets ANSWERS.jsonl
#   REVIEWS=DATA/reviews/NAME.jsonl         the judge's reviews
#   RULE=llava/eval/table/rule.json         what the judge is asked; its wording moves the scores
#
# The judge is any OpenAI-compatible endpoint: OPENAI_API_KEY, OPENAI_BASE_URL, JUDGE_MODEL (llava/eval/judge.py).

set -euo pipefail
# shellcheck source=scripts/lib/evaluate.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../lib/evaluate.sh"

: "${DATA:=$EVAL_DATA/llava-bench-in-the-wild}"
: "${IMAGES:=$DATA/images}"
: "${ANSWERS:=$DATA/answers/$NAME}"
: "${REVIEWS:=$DATA/reviews/$NAME.jsonl}"
: "${RULE:=llava/eval/table/rule.json}"

require_tree "$DATA" \
    questions.jsonl "the questions" \
    context.jsonl "captions of the pictures" \
    answers_gpt4.jsonl "the reference answers"
require_images "LLaVA-Bench's pictures"

answer_questions "$DATA/questions.jsonl" "$ANSWERS" "$ANSWERS.jsonl" \
    llava.eval.model_vqa --image-folder "$IMAGES" "$@"

if has_judge; then
    python -m llava.eval.eval_gpt_review_bench --question "$DATA/questions.jsonl" --context "$DATA/context.jsonl" \
        --rule "$RULE" --answer-list "$DATA/answers_gpt4.jsonl" "$ANSWERS.jsonl" --output "$REVIEWS"
    python -m llava.eval.summarize_gpt_review -f "$REVIEWS"
else
    echo "LLaVA-Bench: no score here (no judge: set OPENAI_API_KEY)"
fi
