#!/usr/bin/env bash
# Every benchmark whose data is there, one after the other; at the end one line for each, beside the papers' rows.
#
#   CKPT=./checkpoints/llava-v1.5-7b-ccra bash scripts/v1_5/eval/all.sh
#
# Defaults:
#   BENCHMARKS="gqa sqa ..."  scripts of this folder to run [all whose results the papers print]
#
# A benchmark that fails does not keep the others from running; the exit code is 1 then, and also when none has run.
# Variables of single scripts (DATA, IMAGES, ANSWERS, SPLIT, ...) do not reach them from here.

set -euo pipefail
# shellcheck source=scripts/lib/evaluate.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../lib/evaluate.sh"

: "${BENCHMARKS:=gqa sqa textvqa vizwiz mmbench mmvet seed mmmu mme pope vqav2 amber hallusion}"
unset DATA IMAGES ANSWERS SPLIT TIER RESULTS UPLOAD QUESTIONS ANNOTATIONS SOURCE QUERY OFFICIAL

export CKPT NAME CONV_MODE BATCH_SIZE EVAL_DATA PUBLISHED=1
RESULT_LINES=$(mktemp)
export RESULT_LINES
failed=0 finished=0
for benchmark in $BENCHMARKS; do
    script=scripts/v1_5/eval/$benchmark.sh
    [[ -f $script ]] || fail 2 "BENCHMARKS names $benchmark: no such script in scripts/v1_5/eval"
    case $benchmark in
        sqa) folder=$EVAL_DATA/scienceqa ;;
        seed) folder=$EVAL_DATA/seed_bench ;;
        mme) folder=$EVAL_DATA/MME ;;
        mmvet) folder=$(existing_folder "$EVAL_DATA/mm-vet" "$EVAL_DATA/mmvet") ;;
        *) folder=$EVAL_DATA/$benchmark ;;
    esac
    if [[ ! -d $folder ]]; then
        echo "$benchmark: not run, $folder is not there" >>"$RESULT_LINES"
        continue
    fi
    printf '\n== %s\n' "$benchmark"
    status=0
    bash "$script" "$@" || status=$?
    if ((status)); then
        failed=$((failed + 1))
        echo "$benchmark: failed (exit code $status, its message is above)" >>"$RESULT_LINES"
    else
        finished=$((finished + 1))
    fi
done

printf '\n== %s\n' "$NAME"
cat "$RESULT_LINES"
rm "$RESULT_LINES"
((failed == 0)) || fail 1 "$failed of the benchmarks failed; RESUME=1 goes on from the answers they have"
((finished)) || fail 1 "no benchmark has run: EVAL_DATA=$EVAL_DATA (from $ROOT) holds none of their folders"
