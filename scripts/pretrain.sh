#!/usr/bin/env bash
# Stage 1 of the first LLaVA: trains a linear projector alone, on captions. Writes OUTPUT/mm_projector.bin.
#
#   MODEL_VERSION=vicuna-v1-3-7b DATA=captions.json IMAGE_FOLDER=images bash scripts/pretrain.sh
#
# Defaults, LLaVA's own:
#   MODEL_VERSION=vicuna-v1-3-7b   part of the paths below
#   MODEL=./checkpoints/$MODEL_VERSION  VERSION=plain  VISION_TOWER=openai/clip-vit-large-patch14
#   DATA=/path/to/pretrain_data.json  IMAGE_FOLDER=/path/to/images
#   OUTPUT=./checkpoints/llava-$MODEL_VERSION-pretrain
#   BATCH_SIZE=16  EPOCHS=1  LEARNING_RATE=2e-3  SAVE_STEPS=24000  DEEPSPEED=./scripts/zero2.json

set -euo pipefail
# shellcheck source=scripts/lib/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/launch.sh"

: "${MODEL_VERSION=vicuna-v1-3-7b}"
: "${MODEL=./checkpoints/$MODEL_VERSION}"
: "${VERSION=plain}"
: "${VISION_TOWER=openai/clip-vit-large-patch14}"
: "${DATA=/path/to/pretrain_data.json}"
: "${IMAGE_FOLDER=/path/to/images}"
: "${OUTPUT=./checkpoints/llava-$MODEL_VERSION-pretrain}"
: "${BATCH_SIZE=16}"
: "${LEARNING_RATE=2e-3}"
: "${SAVE_STEPS=24000}"
: "${DEEPSPEED=./scripts/zero2.json}"
TUNE_MM_MLP_ADAPTER=True

launch "$@"
