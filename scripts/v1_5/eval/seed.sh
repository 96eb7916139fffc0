#!/usr/bin/env bash
# SEED-Bench: answers by letter; accuracy by type, over pictures (SEED-I) and over videos.
#
#   CKPT=./checkpoints/llava-v1.5-7b-ccra bash scripts/v1_5/eval/seed.sh
#
# Defaults:
#   DATA=EVAL_DATA/seed_bench              the benchmark's folder
#   IMAGES=DATA                            folder of SEED-Bench-image and SEED-Bench-video-image
#   ANSWERS=DATA/answers/NAME              gets the chunks and merge.jsonl
#   UPLOAD=DATA/answers_upload/NAME.jsonl  the file for SEED-Bench's server

set -euo pipefail
# shellcheck source=scripts/lib/evaluate.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../lib/evaluate.sh"

: "${DATA:=$EVAL_DATA/seed_bench}"
: "${IMAGES:=$DATA}"
: "${ANSWERS:=$DATA/answers/$NAME}"
: "${UPLOAD:=$DATA/answers_upload/$NAME.jsonl}"

require_tree "$DATA" \
    llava-seed-bench.jsonl "questions as LLaVA asks them (its eval.zip)" \
    SEED-Bench.json "SEED-Bench's questions with answers"
require_images "SEED-Bench's pictures"

answer_questions "$DATA/llava-seed-bench.jsonl" "$ANSWERS" "$ANSWERS/merge.jsonl" \
    llava.eval.model_vqa_loader --image-folder "$IMAGES" "$@"

python scripts/convert_seed_for_submission.py --annotation-file "$DATA/SEED-Bench.json" \
    --result-file "$ANSWERS/merge.jsonl" --result-upload-file "$UPLOAD"
show_result seed "$ANSWERS/merge.jsonl" seed_image_accuracy
