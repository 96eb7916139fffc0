#!/usr/bin/env bash
# Stage 2 of LLaVA-1.5 with LoRA: trains low-rank adapters in the language model, and the projector in full.
#
#   bash scripts/v1_5/finetune_lora.sh                                # 13B; 128 samples per update on 8 GPUs
#
# Defaults, LLaVA's own:
#   MODEL=lmsys/vicuna-13b-v1.5  VERSION=v1  VISION_TOWER=openai/clip-vit-large-patch14-336  PROJECTOR=mlp2x_gelu
#   LORA_ENABLE=True  LORA_R=128  LORA_ALPHA=256  MM_PROJECTOR_LR=2e-5
#   ADAPTER=./checkpoints/llava-v1.5-13b-pretrain/mm_projector.bin
#   DATA=./playground/data/llava_v1_5_mix665k.json  IMAGE_FOLDER=./playground/data
#   OUTPUT=./checkpoints/llava-v1.5-13b-lora  IMAGE_ASPECT_RATIO=pad
#   BATCH_SIZE=16  EPOCHS=1  LEARNING_RATE=2e-4  SAVE_STEPS=50000  DEEPSPEED=./scripts/zero3.json

set -euo pipefail
# shellcheck source=scripts/lib/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib/launch.sh"

: "${MODEL=lmsys/vicuna-13b-v1.5}"
: "${VERSION=v1}"
: "${VISION_TOWER=openai/clip-vit-large-patch14-336}"
: "${PROJECTOR=mlp2x_gelu}"
: "${LORA_ENABLE=True}"
: "${LORA_R=128}"
: "${LORA_ALPHA=256}"
: "${MM_PROJECTOR_LR=2e-5}"
: "${ADAPTER=./checkpoints/llava-v1.5-13b-pretrain/mm_projector.bin}"
: "${DATA=./playground/data/llava_v1_5_mix665k.json}"
: "${IMAGE_FOLDER=./playground/data}"
: "${OUTPUT=./checkpoints/llava-v1.5-13b-lora}"
: "${IMAGE_ASPECT_RATIO=pad}"
: "${BATCH_SIZE=16}"
: "${LEARNING_RATE=2e-4}"
: "${SAVE_STEPS=50000}"
: "${DEEPSPEED=./scripts/zero3.json}"
GROUP_BY_MODALITY_LENGTH=True

launch "$@"
