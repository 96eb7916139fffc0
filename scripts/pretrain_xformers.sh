#!/usr/bin/env bash
# Stage 1 of the first LLaVA on GPUs without FlashAttention and bfloat16 (V100): memory-efficient attention, float32.
#
#   MODEL_VERSION=vicuna-v1-3-7b DATA=captions.json IMAGE_FOLDER=images bash scripts/pretrain_xformers.sh
#
# Defaults, LLaVA's own:
#   MODEL_VERSION=vicuna-v1-3-7b   part of the paths below
#   MODEL=./checkpoints/$MODEL_VERSION  VERSION=plain  VISION_TOWER=openai/clip-vit-large-patch14
#   DATA=/path/to/pretrain_data.json  IMAGE_FOLDER=/path/to/images
#   OUTPUT=./checkpoints/llava-$MODEL_VERSION-pretrain
#   BATCH_SIZE=4  GRAD_ACCUM=4  EPOCHS=1  LEARNING_RATE=2e-3  SAVE_STEPS=24000  BF16=False  TF32=False
#   DEEPSPEED=./scripts/zero2.json

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
: "${BATCH_SIZE=4}"
: "${LEARNING_RATE=2e-3}"
: "${SAVE_STEPS=24000}"
: "${BF16=False}"
: "${TF32=False}"
: "${DEEPSPEED=./scripts/zero2.json}"
if [[ -z ${GLOBAL_BATCH-} ]]; then
    : "${GRAD_ACCUM=4}"
fi
TUNE_MM_MLP_ADAPTER=True
TRAINER=llava/train/train_xformers.py

launch "$@"
