#!/usr/bin/env bash
# HallusionBench: yes or no to questions with and without figures; aAcc, fAcc and qAcc.
#
#   CKPT=./checkpoints/llava-v1.5-7b-ccra bash scripts/v1_5/eval/hallusion.sh
#
# Defaults:
#   DATA=EVAL_DATA/hallusion     the benchmark's folder
#   IMAGES=DATA/hallusion_bench  the figures: VD/ and VS/
#   JUDGE=0                      1 lets a judge compare answers, as the paper does
#   ANSWERS=DATA/answers/NAME    gets ANSWERS.jsonl and ANSWERS_result.json
#
# The judge is any OpenAI-compatible endpoint: OPENAI_API_KEY, OPENAI_BASE_URL, JUDGE_MODEL (llava/eval/judge.py).

set -euo pipefail
# shellcheck source=scripts/lib/evaluate.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../lib/evaluate.sh"

: "${DATA:=$EVAL_DATA/hallusion}"
: "${IMAGES:=$DATA/hallusion_bench}"
: "${JUDGE:=0}"
: "${ANSWERS:=$DATA/answers/$NAME}"

require_tree "$DATA" \
    HallusionBench.json "HallusionBench's questions with answers"
require_images "HallusionBench's figures"
if [[ $JUDGE != 0 ]]; then
    has_judge || fail 2 "JUDGE=$JUDGE: no judge; set OPENAI_API_KEY, or JUDGE=0"
    judge=(--judge)
fi

python scripts/convert_hallusion_to_llava.py --src "$DATA/HallusionBench.json" --dst "$DATA/llava_hallusion.jsonl"
answer_questions "$DATA/llava_hallusion.jsonl" "$ANSWERS" "$ANSWERS.jsonl" \
    llava.eval.model_vqa_loader --image-folder "$IMAGES" "$@"

python -m llava.eval.eval_hallusion --annotation "$DATA/HallusionBench.json" --result-file "$ANSWERS.jsonl" \
    --output-file "${ANSWERS}_result.json" ${judge[@]+"${judge[@]}"}
show_result hallusion "$ANSWERS.jsonl" hallusion_aacc
