#!/usr/bin/env bash
# A study of the papers with the demo's tiny parts, on a CPU. `make demo` trains what it starts from; then
#
#   bash playground/tiny/sweep.sh --study table4 --seeds 1 2 3 --out checkpoints/demo/table4
#
# At 7B the same command, `python -m ccra_patch.sweep`, takes other paths; its --help lists the flags. Paths start at the
# repository's root.

set -euo pipefail
: "${RUNS:=checkpoints/demo}" # where the demo leaves its runs
FAMILY=llava-tiny
# shellcheck source=playground/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

build playground.tiny.build
data=$(folder_of data)
model=$(folder_of language_model)
tower=$(folder_of clip)
adapter=$(finished_stage1 "$model" "$tower")
[[ -n $adapter ]] || fail 2 "$RUNS has no stage 1 of $model; train it with: make demo"

# The demo's recipe, and layers that a tower of six blocks has.
python -m ccra_patch.sweep \
    --train MODEL="$model" VISION_TOWER="$tower" ADAPTER="$adapter" DATA="$data/finetune.json" IMAGE_FOLDER="$data/images" \
    LAUNCHER=python REPORT_TO=none WORKERS=1 BF16=False GRADIENT_CHECKPOINTING=False SAVE_STEPS=1000 LOGGING_STEPS=25 \
    BATCH_SIZE=16 GLOBAL_BATCH=16 EPOCHS=1 LEARNING_RATE=1e-3 \
    MM_DENSE_CONNECTOR_STI_LAYERS="2 4" MM_DENSE_CONNECTOR_SCI_LAYERS="2 4" \
    MM_DENSE_CONNECTOR_DCI_LAYERS="0 1 2 3 4 5" MM_DENSE_CONNECTOR_DCI_GROUP_SIZE=3 \
    MM_MMFUSER_LAYERS="1 2 3 4" MM_MMFUSER_HEADS=4 \
    MM_IGVA_LAYERS="1 2 3 4 5 6" MM_IGVA_GROUP_SIZE=2 MM_IGVA_HIDDEN_DIM=64 \
    MM_MLVF_ED_LAYERS="1 4" \
    --eval DATA="$data/gqa" BATCH_SIZE=32 WORKERS=1 "$@"
