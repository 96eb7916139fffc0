#!/usr/bin/env bash
# AttAnchor on LLaVA-1.5-7B, the paper's recipe: LoRA of rank 8 in the language model, the projector in full, early
# stopping on validation loss. Copies of question tokens go behind the image tokens that are most like them.
#
#   bash scripts/v1_5/finetune_attanchor.sh                           # one GPU: 8 x 4 = 32 samples per update
#   MM_ATTANCHOR_DIRECTION=image_into_text bash scripts/v1_5/finetune_attanchor.sh
#   PROJECTOR=ccra MODEL=./checkpoints/llava-v1.5-7b-ccra bash scripts/v1_5/finetune_attanchor.sh
#   EVAL_DATA= LAUNCHER=python BATCH_SIZE=1 bash scripts/v1_5/finetune_attanchor.sh --max_steps 10
#
# What threshold copies a tenth of your data's question tokens: python -m llava.attanchor.calibrate --help
# 8-bit AdamW needs bitsandbytes (make setup EXTRAS=train,quant), or OPTIM=adamw_torch.
#
# Defaults:
#   MODEL=liuhaotian/llava-v1.5-7b  VERSION=v1  VISION_TOWER=openai/clip-vit-large-patch14-336  PROJECTOR=mlp2x_gelu
#   MM_ATTANCHOR_DIRECTION=text_into_image   or image_into_text
#   MM_ATTANCHOR_TAU=0.12                    least cosine similarity for a copy (the paper: 0.12 to 0.14)
#   LORA_ENABLE=True  LORA_R=8  LORA_ALPHA=16  MM_PROJECTOR_LR=2e-5
#   DATA=./playground/data/llava_v1_5_mix665k_train.json  IMAGE_FOLDER=./playground/data
#   EVAL_DATA=./playground/data/llava_v1_5_mix665k_val.json  PATIENCE=10   (docs/attanchor.md: how to split the mix)
#   OUTPUT=./checkpoints/llava-v1.5-7b-attanchor  IMAGE_ASPECT_RATIO=pad  REPORT_TO=tensorboard
#   BATCH_SIZE=8  GRAD_ACCUM=4  EPOCHS=2  LEARNING_RATE=2e-4  SAVE_STEPS=1000
#   FP16=True  BF16=False  OPTIM=paged_adamw_8bit  LAUNCHER=torchrun  DEEPSPEED=

set -euo pipefail
: "${LAUNCHER=torchrun}" # fp16 and 8-bit AdamW are torch's and bitsandbytes' own; a frozen 7B needs no ZeRO
: "${DEEPSPEED=}"
# shellcheck source=scripts/lib/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib/launch.sh"

: "${MODEL=liuhaotian/llava-v1.5-7b}"
: "${VERSION=v1}"
: "${VISION_TOWER=openai/clip-vit-large-patch14-336}"
: "${PROJECTOR=mlp2x_gelu}"
: "${MM_ATTANCHOR_DIRECTION=text_into_image}"
: "${MM_ATTANCHOR_TAU=0.12}"
: "${LORA_ENABLE=True}"
: "${LORA_R=8}"
: "${LORA_ALPHA=16}"
: "${MM_PROJECTOR_LR=2e-5}"
: "${DATA=./playground/data/llava_v1_5_mix665k_train.json}"
: "${IMAGE_FOLDER=./playground/data}"
: "${EVAL_DATA=./playground/data/llava_v1_5_mix665k_val.json}"
: "${PATIENCE=10}"
: "${OUTPUT=./checkpoints/llava-v1.5-7b-attanchor}"
: "${IMAGE_ASPECT_RATIO=pad}"
: "${BATCH_SIZE=8}"
: "${GRAD_ACCUM=4}"
: "${EPOCHS=2}"
: "${LEARNING_RATE=2e-4}"
: "${SAVE_STEPS=1000}"
: "${FP16=True}"
: "${BF16=False}"
: "${OPTIM=paged_adamw_8bit}"
: "${REPORT_TO=tensorboard}"
GROUP_BY_MODALITY_LENGTH=True

launch "$@"
