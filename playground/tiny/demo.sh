#!/usr/bin/env bash
# What `make demo` runs: LLaVA's two stages and its GQA evaluation on Easy-VQA, with tiny parts, on a CPU.
#
#   make demo                # the sample of 2,000 test questions
#   FULL=1 make demo         # all 9,673
#
# Data, training and evaluation are the real scripts', configured by their variables; nothing here is another way to
# train. Whatever is finished is reused: parts by their recipe, stages by the exact command and the code behind it.

set -euo pipefail
RUNS=checkpoints/demo
FAMILY=llava-tiny
# shellcheck source=playground/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

TIER=testdev_balanced
if [[ ${FULL:-0} != 0 ]]; then
    TIER=testdev_all
fi
export WORKERS=1 BF16=False

say "data and parts"
build playground.tiny.build
echo "$parts"
data=$(folder_of data)
export MODEL VISION_TOWER IMAGE_FOLDER=$data/images
MODEL=$(folder_of language_model)
VISION_TOWER=$(folder_of clip)

stage pretrain scripts/v1_5/pretrain.sh DATA="$data/pretrain.json" \
    BATCH_SIZE=32 EPOCHS=2 LEARNING_RATE=2e-3
adapter=$trained/mm_projector.bin

finetune() { # finetune PROJECTOR
    stage "$1" scripts/v1_5/finetune_ccra.sh PROJECTOR="$1" ADAPTER="$adapter" DATA="$data/finetune.json" \
        BATCH_SIZE=16 GLOBAL_BATCH=16 EPOCHS=1 LEARNING_RATE=1e-3
}
finetune ccra
ccra=$trained
finetune mlp2x_gelu
mlp2x_gelu=$trained

evaluation ccra "$ccra" "$data/gqa" "$TIER" "$data/gqa/data/images"
ccra_scores=$scored
evaluation mlp2x_gelu "$mlp2x_gelu" "$data/gqa" "$TIER" "$data/gqa/data/images"
mlp2x_gelu_scores=$scored
evaluation ccra_blank "$ccra" "$data/gqa" "$TIER" "$data/gqa/data/blank_images"
blank_scores=$scored

say "report"
python -m playground.tiny.report \
    --scores "CCRA=$ccra_scores" "mlp2x_gelu=$mlp2x_gelu_scores" "CCRA, blank picture=$blank_scores" \
    --checkpoint "$ccra" --gqa "$data/gqa" --table "$RUNS/report.md" --figure "$RUNS/maps.png"
