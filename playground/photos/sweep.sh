#!/usr/bin/env bash
# The study of all projectors on photographs (docs/study.md), from the stage 1 of `make demo-photos`, or its own.
#
#   bash playground/photos/sweep.sh --seeds 1 2 3 --out checkpoints/photos/study --jobs 2
#
# Every arm tries the same learning rates with the first seed and takes the best on the validation questions. Flags are
# those of `python -m ccra_patch.sweep`.

set -euo pipefail
# shellcheck source=playground/photos/recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"

build_parts
adapter=$(finished_stage1 "$MODEL" "$VISION_TOWER")
[[ -n $adapter ]] || pretrain

# AttAnchor's threshold is the one that copies a tenth of the questions' tokens, as in its paper.
calibration=$(dirname "$adapter")/attanchor.json
if [[ ! -f $calibration ]]; then
    python -m llava.attanchor.calibrate --model-path "$(dirname "$adapter")" --model-base "$MODEL" \
        --conv-mode "$CONV_MODE" --mm_attanchor_direction text_into_image \
        --data "$data/finetune.json" --image-folder "$IMAGE_FOLDER" --output "$calibration" >&2
fi
tau=$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["tau"])' "$calibration")

# The demo's recipe, and layers that a tower of twelve blocks has.
python -m ccra_patch.sweep --study photos \
    --train MODEL="$MODEL" VISION_TOWER="$VISION_TOWER" ADAPTER="$adapter" DATA="$data/finetune.json" \
    IMAGE_FOLDER="$IMAGE_FOLDER" "${STAGE2[@]}" EXTRA_ARGS="--save_strategy no" \
    MM_DENSE_CONNECTOR_DCI_LAYERS="0 1 2 3 4 5 6 7 8 9 10 11" MM_DENSE_CONNECTOR_DCI_GROUP_SIZE=6 \
    MM_MMFUSER_LAYERS="2 4 6 9" MM_MMFUSER_HEADS=6 \
    MM_IGVA_LAYERS="1 2 3 4 5 6 7 8 9 10 11 12" MM_IGVA_GROUP_SIZE=3 MM_IGVA_HIDDEN_DIM=128 \
    MM_MLVF_ED_LAYERS="4 8 12" \
    --train-arm mlp2x_gelu_attanchor MM_ATTANCHOR_TAU="$tau" --train-arm ccra_attanchor MM_ATTANCHOR_TAU="$tau" \
    --search LEARNING_RATE="$LEARNING_RATES" \
    --search-eval TIER=val_balanced SPLIT=llava_gqa_val_balanced \
    --eval DATA="$data/gqa" CONV_MODE="$CONV_MODE" BATCH_SIZE=50 \
    --evaluation new_cutouts TIER=test_cutouts_balanced SPLIT=llava_gqa_test_cutouts_balanced \
    --evaluation new_combinations TIER=test_combinations_balanced SPLIT=llava_gqa_test_combinations_balanced \
    "$@"
