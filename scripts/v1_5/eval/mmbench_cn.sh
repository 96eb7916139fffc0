#!/usr/bin/env bash
# MMBench in Chinese: mmbench.sh with SPLIT=mmbench_dev_cn_20231003 and ASK_IN=cn; its variables and flags are this one's.
#
#   CKPT=./checkpoints/llava-v1.5-7b-ccra bash scripts/v1_5/eval/mmbench_cn.sh
#
# Defaults:
#   DATA=EVAL_DATA/mmbench_cn  the benchmark's folder, or EVAL_DATA/mmbench

set -euo pipefail
# shellcheck source=scripts/lib/evaluate.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../lib/evaluate.sh"

: "${DATA:=$(existing_folder "$EVAL_DATA/mmbench_cn" "$EVAL_DATA/mmbench")}"
export DATA SPLIT=${SPLIT:-mmbench_dev_cn_20231003} ASK_IN=cn

bash scripts/v1_5/eval/mmbench.sh "$@"
