#!/usr/bin/env bash
# TextVQA: answers the validation questions with OCR tokens; VQA accuracy.
#
#   CKPT=./checkpoints/llava-v1.5-7b-ccra bash scripts/v1_5/eval/textvqa.sh
#
# Defaults:
#   DATA=EVAL_DATA/textvqa     the benchmark's folder
#   IMAGES=DATA/train_images   pictures that the questions name
#   ANSWERS=DATA/answers/NAME  gets ANSWERS.jsonl

set -euo pipefail
# shellcheck source=scripts/lib/evaluate.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../lib/evaluate.sh"

: "${DATA:=$EVAL_DATA/textvqa}"
: "${IMAGES:=$DATA/train_images}"
: "${ANSWERS:=$DATA/answers/$NAME}"

require_tree "$DATA" \
    llava_textvqa_val_v051_ocr.jsonl "questions as LLaVA asks them (its eval.zip)" \
    TextVQA_0.5.1_val.json "TextVQA's annotations"
require_images "TextVQA's pictures"

answer_questions "$DATA/llava_textvqa_val_v051_ocr.jsonl" "$ANSWERS" "$ANSWERS.jsonl" \
    llava.eval.model_vqa_loader --image-folder "$IMAGES" "$@"

python -m llava.eval.eval_textvqa --annotation-file "$DATA/TextVQA_0.5.1_val.json" --result-file "$ANSWERS.jsonl"
show_result textvqa "$ANSWERS.jsonl" textvqa_accuracy
