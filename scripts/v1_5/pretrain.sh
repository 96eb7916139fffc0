#!/usr/bin/env bash
# Stage 1 of LLaVA-1.5: trains the projector alone, on 558K captions. Writes OUTPUT/mm_projector.bin.
#
#   bash scripts/v1_5/pretrain.sh                                     # 13B; 256 samples per update on 8 GPUs
#   MODEL=lmsys/vicuna-7b-v1.5 OUTPUT=./checkpoints/llava-v1.5-7b-pretrain \
#       GLOBAL_BATCH=256 bash scripts/v1_5/pretrain.sh                # 7B, on any number of GPUs that divides 256
#
# Defaults, LLaVA's own:
#   MODEL=lmsys/vicuna-13b-v1.5  VERSION=plain  VISION_TOWER=openai/clip-vit-large-patch14-336  PROJECTOR=mlp2x_gelu
#   DATA=./playground/data/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json
#   IMAGE_FOLDER=./playground/data/LLaVA-Pretrain/images  OUTPUT=./checkpoints/llava-v1.5-13b-pretrain
#   BATCH_SIZE=32  EPOCHS=1  LEARNING_RATE=1e-3  SAVE_STEPS=24000  DEEPSPEED=./scripts/zero2.json

set -euo pipefail
# shellcheck source=scripts/lib/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib/launch.sh"

: "${MODEL=lmsys/vicuna-13b-v1.5}"
: "${VERSION=plain}"
: "${VISION_TOWER=openai/clip-vit-large-patch14-336}"
: "${PROJECTOR=mlp2x_gelu}"
: "${DATA=./playground/data/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json}"
: "${IMAGE_FOLDER=./playground/data/LLaVA-Pretrain/images}"
: "${OUTPUT=./checkpoints/llava-v1.5-13b-pretrain}"
: "${BATCH_SIZE=32}"
: "${LEARNING_RATE=1e-3}"
: "${SAVE_STEPS=24000}"
: "${DEEPSPEED=./scripts/zero2.json}"
TUNE_MM_MLP_ADAPTER=True

launch "$@"
