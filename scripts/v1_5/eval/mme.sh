#!/usr/bin/env bash
# MME: yes or no, two questions a picture; the scores of perception (MME-P) and cognition.
#
#   CKPT=./checkpoints/llava-v1.5-7b-ccra bash scripts/v1_5/eval/mme.sh
#
# Defaults:
#   DATA=EVAL_DATA/MME                         the benchmark's folder
#   IMAGES=DATA/MME_Benchmark_release_version  MME's release: pictures and questions
#   ANSWERS=DATA/answers/NAME                  gets ANSWERS.jsonl
#   OFFICIAL=DATA/eval_tool/answers/NAME       gets the files that MME's own calculation.py reads

set -euo pipefail
# shellcheck source=scripts/lib/evaluate.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../lib/evaluate.sh"

: "${DATA:=$EVAL_DATA/MME}"
: "${IMAGES:=$DATA/MME_Benchmark_release_version}"
: "${ANSWERS:=$DATA/answers/$NAME}"
: "${OFFICIAL:=$DATA/eval_tool/answers/$NAME}"

require_tree "$DATA" \
    llava_mme.jsonl "questions as LLaVA asks them (its eval.zip)"
require_images "MME's release"

answer_questions "$DATA/llava_mme.jsonl" "$ANSWERS" "$ANSWERS.jsonl" \
    llava.eval.model_vqa_loader --image-folder "$IMAGES" "$@"

python -m llava.eval.eval_mme --data-dir "$IMAGES" --result-file "$ANSWERS.jsonl" --output-dir "$OFFICIAL"
show_result mme "$ANSWERS.jsonl" mme_perception
show_result mme_total "$ANSWERS.jsonl" mme_total
