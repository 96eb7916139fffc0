#!/usr/bin/env bash
# Q-Bench: answers LLVisionQA's questions by letter, for its server.
#
#   CKPT=./checkpoints/llava-v1.5-7b-ccra bash scripts/v1_5/eval/qbench.sh dev
#
# Defaults:
#   CONV_MODE=llava_v1             conversation template
#   DATA=EVAL_DATA/qbench          the benchmark's folder
#   ASK_IN=en                      en or zh
#   IMAGES=DATA/images_llvisionqa  pictures that the questions name
#
# Answers go to DATA/llvisionqa_<split>_answers.jsonl, in Chinese to DATA/llvisionqa_zh_<split>_answers.jsonl.

set -euo pipefail
: "${CONV_MODE:=llava_v1}"
# shellcheck source=scripts/lib/evaluate.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../lib/evaluate.sh"

: "${DATA:=$EVAL_DATA/qbench}"
: "${ASK_IN:=en}"
: "${IMAGES:=$DATA/images_llvisionqa}"

split=${1-}
case $ASK_IN-$split in
    en-dev | en-test) questions=llvisionqa_$split name=llvisionqa_$split ;;
    zh-dev) questions=质衡-问答-验证集 name=llvisionqa_zh_dev ;;
    zh-test) questions=质衡-问答-测试集 name=llvisionqa_zh_test ;;
    *) fail 1 "'$split' of language $ASK_IN: say which split to answer, dev or test" ;;
esac
shift
require_tree "$DATA" \
    "$questions.json" "Q-Bench's questions"
require_images "Q-Bench's pictures"

answer_questions "$DATA/$questions.json" "$DATA/${name}_chunks" "$DATA/${name}_answers.jsonl" \
    llava.eval.model_vqa_qbench --lang "$ASK_IN" --image-folder "$IMAGES" "$@"
