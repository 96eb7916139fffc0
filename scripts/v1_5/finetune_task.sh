#!/usr/bin/env bash
# Your own task, from a finished LLaVA checkpoint: trains language model and projector further.
#
#   DATA=my_task.json IMAGE_FOLDER=my_images OUTPUT=./checkpoints/my-task bash scripts/v1_5/finetune_task.sh
#
# Defaults, LLaVA's own:
#   MODEL=liuhaotian/llava-v1.5-13b  VERSION=v1  VISION_TOWER=openai/clip-vit-large-patch14-336  PROJECTOR=mlp2x_gelu
#   DATA=./playground/data/llava_v1_5_mix665k.json  IMAGE_FOLDER=./playground/data
#   OUTPUT=./checkpoints/llava-v1.5-13b-task  IMAGE_ASPECT_RATIO=pad
#   BATCH_SIZE=16  EPOCHS=1  LEARNING_RATE=2e-5  SAVE_STEPS=50000  DEEPSPEED=./scripts/zero3.json

set -euo pipefail
# shellcheck source=scripts/lib/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib/launch.sh"

: "${MODEL=liuhaotian/llava-v1.5-13b}"
: "${VERSION=v1}"
: "${VISION_TOWER=openai/clip-vit-large-patch14-336}"
: "${PROJECTOR=mlp2x_gelu}"
: "${DATA=./playground/data/llava_v1_5_mix665k.json}"
: "${IMAGE_FOLDER=./playground/data}"
: "${OUTPUT=./checkpoints/llava-v1.5-13b-task}"
: "${IMAGE_ASPECT_RATIO=pad}"
: "${BATCH_SIZE=16}"
: "${LEARNING_RATE=2e-5}"
: "${SAVE_STEPS=50000}"
: "${DEEPSPEED=./scripts/zero3.json}"
GROUP_BY_MODALITY_LENGTH=True

launch "$@"
