# shellcheck shell=bash
# Variables of every training script (an empty value leaves its flag out):
#
#   MODEL              language model or LLaVA checkpoint: a folder or a hub name
#   VERSION            prompt version: plain (stage 1), v1, llava_llama_2, ...
#   VISION_TOWER       CLIP tower: a folder or a hub name; empty trains on text alone
#   PROJECTOR          linear, mlp2x_gelu, identity, ccra, or a method to compare it with: dense_connector_sti,
#                      dense_connector_sci, dense_connector_dci, mmfuser, igva, mlvf_ed
#   ADAPTER            mm_projector.bin to start the projector from
#   DATA               JSON list of samples
#   IMAGE_FOLDER       folder that the samples' "image" paths start from
#   EVAL_DATA          JSON list of validation samples, evaluated every SAVE_STEPS ("vqa=vqa.json ocr=ocr.json": several)
#   PATIENCE           with EVAL_DATA: stop after so many evaluations without a better loss, and keep the best model
#   OUTPUT             folder for checkpoints and the final weights
#
#   BATCH_SIZE         samples per device and step
#   GRAD_ACCUM         steps gathered into one update (default: from GLOBAL_BATCH, else 1)
#   GLOBAL_BATCH       samples per update; sets GRAD_ACCUM = GLOBAL_BATCH / (BATCH_SIZE x NUM_PROCESSES)
#   EPOCHS, LEARNING_RATE, SAVE_STEPS, SEED, MODEL_MAX_LENGTH [2048]
#   WARMUP_RATIO [0.03], LR_SCHEDULER [cosine], WEIGHT_DECAY [0.], SAVE_TOTAL_LIMIT [1], LOGGING_STEPS [1]
#   BF16 [True], FP16, TF32 [True], GRADIENT_CHECKPOINTING [True], OPTIM [adamw_torch]
#   WORKERS [4]        processes that load pictures, per device
#   REPORT_TO          wandb, tensorboard or none
#   MM_VISION_SELECT_LAYER [-2], IMAGE_ASPECT_RATIO, MM_PROJECTOR_LR
#   LORA_ENABLE, LORA_R, LORA_ALPHA, BITS
#   MM_<PROJECTOR>_*   settings of the chosen projector; each becomes the flag of its name, its words the flag's values:
#                      PROJECTOR=ccra MM_CCRA_SIGMA=2, PROJECTOR=mmfuser MM_MMFUSER_LAYERS="3 8 13 18"
#   MM_ATTANCHOR_*     AttAnchor's settings, with any projector, likewise: MM_ATTANCHOR_DIRECTION=text_into_image
#
#   LAUNCHER           deepspeed [default], torchrun, or python (one process, no DeepSpeed)
#   DEEPSPEED          DeepSpeed config; empty switches DeepSpeed off (LAUNCHER=python: empty unless set)
#   NUM_PROCESSES      processes in all (default: the hostfile's slots, else the GPUs in sight, else 1)
#   HOSTFILE           DeepSpeed hostfile ("host slots=8" a line), for several machines
#   MASTER_PORT        port on which the processes meet [29500]
#   EXTRA_ARGS         more flags for the trainer, separated by blanks; those on the script's own command line come last
#   DRY_RUN            1 prints the command, one argument a line, and starts nothing
#
# Relative paths start at the repository's root. Without an activated environment, .venv (`make setup`) is used.
# All flags of the trainer: python llava/train/train_mem.py --help

# shellcheck source=scripts/lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

: "${LAUNCHER=deepspeed}"
if [[ $LAUNCHER == python ]]; then
    : "${DEEPSPEED=}" # before the script's own default: one plain process is what was asked for
fi

# The only function that the scripts call: from the variables and the script's own arguments to the running trainer.
launch() {
    case ${1-} in
        -h | --help)
            show_help scripts/lib/launch.sh
            exit 0
            ;;
    esac
    count_processes
    choose_accumulation
    collect_arguments "$@"
    build_command
    if [[ ${DRY_RUN:-0} != 0 ]]; then
        printf '%s\n' "${command[@]}"
        exit 0
    fi
    show_configuration
    check_inputs
    check_programs
    exec "${command[@]}"
}

refuse() { # refuse MESSAGE...: the user's mistake
    fail 2 "$@"
}

require_count() { # require_count NAME: the variable holds a whole number of at least 1
    [[ ${!1} =~ ^[1-9][0-9]*$ ]] || refuse "$1=${!1}: must be a whole number of at least 1"
}

gpus_in_sight() {
    if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
        tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c '[A-Za-z0-9]' || true
    elif command -v nvidia-smi >/dev/null; then
        nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU' || true
    else
        echo 0
    fi
}

count_processes() {
    local gpus slots
    case $LAUNCHER in
        deepspeed | torchrun) ;;
        python)
            : "${NUM_PROCESSES:=1}"
            [[ $NUM_PROCESSES == 1 ]] ||
                refuse "NUM_PROCESSES=$NUM_PROCESSES: LAUNCHER=python runs one process; use LAUNCHER=torchrun or deepspeed"
            [[ -z ${DEEPSPEED-} ]] ||
                refuse "DEEPSPEED=$DEEPSPEED: LAUNCHER=python runs without DeepSpeed; use LAUNCHER=deepspeed or DEEPSPEED=''"
            ;;
        *) refuse "LAUNCHER=$LAUNCHER: must be deepspeed, torchrun or python" ;;
    esac
    if [[ -n ${HOSTFILE-} ]]; then
        [[ $LAUNCHER == deepspeed ]] || refuse "HOSTFILE=$HOSTFILE: only LAUNCHER=deepspeed reads a hostfile"
        [[ -f $HOSTFILE ]] || refuse "HOSTFILE=$HOSTFILE: no such file (looked in $ROOT)"
        slots=$(sed -n 's/^[^#]*slots=\([0-9]*\).*/\1/p' "$HOSTFILE" | awk '{ total += $1 } END { print total + 0 }')
        [[ ${NUM_PROCESSES:-$slots} == "$slots" ]] ||
            refuse "NUM_PROCESSES=$NUM_PROCESSES: the hostfile $HOSTFILE has $slots slots; leave NUM_PROCESSES unset"
        NUM_PROCESSES=$slots
    fi
    if [[ -z ${NUM_PROCESSES-} ]]; then
        gpus=$(gpus_in_sight)
        NUM_PROCESSES=$((gpus > 0 ? gpus : 1))
    fi
    require_count NUM_PROCESSES
}

choose_accumulation() {
    require_count BATCH_SIZE
    if [[ -z ${GRAD_ACCUM-} && -n ${GLOBAL_BATCH-} ]]; then
        require_count GLOBAL_BATCH
        local step=$((BATCH_SIZE * NUM_PROCESSES))
        ((GLOBAL_BATCH % step == 0)) || refuse "GLOBAL_BATCH=$GLOBAL_BATCH: must be a multiple of" \
            "BATCH_SIZE x NUM_PROCESSES = $BATCH_SIZE x $NUM_PROCESSES = $step; change BATCH_SIZE or set GRAD_ACCUM"
        GRAD_ACCUM=$((GLOBAL_BATCH / step))
    fi
    : "${GRAD_ACCUM:=1}"
    require_count GRAD_ACCUM
}

flag() { # flag NAME VALUE: one flag of the trainer, left out when the value is empty (list_flag: one of several words)
    if [[ -n $2 ]]; then
        arguments+=("$1" "$2")
    fi
}

validation_flags() { # with EVAL_DATA: a checkpoint of every evaluated model, so that the best one can be kept
    if [[ -z ${EVAL_DATA-} ]]; then
        flag --evaluation_strategy no
        return
    fi
    list_flag --eval_data_path "$EVAL_DATA"
    flag --evaluation_strategy steps
    flag --eval_steps "$SAVE_STEPS"
    flag --early_stopping_patience "${PATIENCE-}"
}

collect_arguments() {
    arguments=()
    flag --deepspeed "${DEEPSPEED-}"
    flag --lora_enable "${LORA_ENABLE-}"
    flag --lora_r "${LORA_R-}"
    flag --lora_alpha "${LORA_ALPHA-}"
    flag --bits "${BITS-}"
    flag --mm_projector_lr "${MM_PROJECTOR_LR-}"

    flag --model_name_or_path "$MODEL"
    flag --version "$VERSION"
    flag --data_path "$DATA"
    flag --image_folder "$IMAGE_FOLDER"
    flag --vision_tower "$VISION_TOWER"
    flag --mm_projector_type "${PROJECTOR-}"
    setting_flags "MM_$(tr '[:lower:]' '[:upper:]' <<<"${PROJECTOR-}")_"
    setting_flags MM_ATTANCHOR_
    flag --pretrain_mm_mlp_adapter "${ADAPTER-}"
    flag --tune_mm_mlp_adapter "${TUNE_MM_MLP_ADAPTER-}"
    flag --mm_vision_select_layer "${MM_VISION_SELECT_LAYER--2}"
    flag --mm_use_im_start_end False
    flag --mm_use_im_patch_token False
    flag --image_aspect_ratio "${IMAGE_ASPECT_RATIO-}"
    flag --group_by_modality_length "${GROUP_BY_MODALITY_LENGTH-}"

    flag --bf16 "${BF16-True}"
    flag --fp16 "${FP16-}"
    flag --tf32 "${TF32-True}"
    flag --optim "${OPTIM-}"
    flag --output_dir "$OUTPUT"
    flag --num_train_epochs "${EPOCHS-1}"
    flag --per_device_train_batch_size "$BATCH_SIZE"
    flag --per_device_eval_batch_size 4
    flag --gradient_accumulation_steps "$GRAD_ACCUM"
    validation_flags
    flag --save_strategy steps
    flag --save_steps "$SAVE_STEPS"
    flag --save_total_limit "${SAVE_TOTAL_LIMIT-1}"
    flag --learning_rate "$LEARNING_RATE"
    flag --weight_decay "${WEIGHT_DECAY-0.}"
    flag --warmup_ratio "${WARMUP_RATIO-0.03}"
    flag --lr_scheduler_type "${LR_SCHEDULER-cosine}"
    flag --logging_steps "${LOGGING_STEPS-1}"
    flag --model_max_length "${MODEL_MAX_LENGTH-2048}"
    flag --gradient_checkpointing "${GRADIENT_CHECKPOINTING-True}"
    flag --dataloader_num_workers "${WORKERS-4}"
    flag --lazy_preprocess True
    flag --report_to "${REPORT_TO-wandb}"
    flag --seed "${SEED-}"

    local extra=()
    read -r -d '' -a extra <<<"${EXTRA_ARGS-}" || true # read reports the end of the text as 1
    arguments+=(${extra[@]+"${extra[@]}"} "$@")
}

build_command() {
    local port=${MASTER_PORT:-29500}
    case $LAUNCHER in
        deepspeed)
            command=(deepspeed)
            if [[ -n ${HOSTFILE-} ]]; then
                command+=(--hostfile "$HOSTFILE")
            elif [[ -n ${CUDA_VISIBLE_DEVICES-} ]]; then
                # --num_gpus would count from GPU 0 and overlook the list
                command+=(--include "localhost:$(cut -d, -f"1-$NUM_PROCESSES" <<<"$CUDA_VISIBLE_DEVICES")")
            else
                command+=(--num_gpus "$NUM_PROCESSES")
            fi
            command+=(--master_port "$port")
            ;;
        torchrun) command=(torchrun --nproc_per_node "$NUM_PROCESSES" --master_port "$port") ;;
        python)
            # With several GPUs in sight the Trainer would turn one process into DataParallel.
            CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-0}
            export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES%%,*}
            command=(python)
            ;;
    esac
    command+=("${TRAINER:-llava/train/train_mem.py}" "${arguments[@]}")
}

value_of() { # value_of FLAG: what the trainer will read for it (the last one given wins), empty if it is not given
    local index value=
    for ((index = 0; index < ${#arguments[@]}; index++)); do
        case ${arguments[index]} in
            "$1") value=${arguments[index + 1]-} ;;
            "$1="*) value=${arguments[index]#*=} ;;
        esac
    done
    printf '%s' "$value"
}

show_configuration() {
    local word line=
    local batch accumulation
    batch=$(value_of --per_device_train_batch_size)
    accumulation=$(value_of --gradient_accumulation_steps)
    {
        echo "$SCRIPT"
        printf '  %-30s %s\n' launcher "$LAUNCHER, $NUM_PROCESSES process(es)" \
            "samples per update" "$batch x $NUM_PROCESSES x $accumulation = $((batch * NUM_PROCESSES * accumulation))"
        for word in "${arguments[@]}"; do
            if [[ $word == --* && -n $line ]]; then
                echo "$line"
                line=
            fi
            if [[ $word == --* ]]; then
                line=$(printf '  %-30s' "${word#--}")
            else
                line+=" $word"
            fi
        done
        echo "$line"
    } >&2
}

complain() { # complain MESSAGE: like refuse, but lets the other checks speak too
    echo "error: $*" >&2
    complaints=$((complaints + 1))
}

check_inputs() {
    local samples images adapter config
    complaints=0
    check_weights MODEL --model_name_or_path "a folder or a hub name like lmsys/vicuna-7b-v1.5"
    if [[ -n $(value_of --vision_tower) ]]; then # without a tower: text only
        check_weights VISION_TOWER --vision_tower "a folder or a hub name like openai/clip-vit-large-patch14-336"
    fi
    samples=$(value_of --data_path)
    [[ -f $samples ]] || complain "DATA=$samples: no such file (looked in $ROOT);" \
        "put the samples there, or set DATA to a JSON list of samples"
    for samples in ${EVAL_DATA-}; do
        [[ -f ${samples#*=} ]] || complain "EVAL_DATA=$samples: no such file (looked in $ROOT);" \
            "put validation samples there, or set EVAL_DATA='' to train without validation"
    done
    images=$(value_of --image_folder)
    [[ -z $images || -d $images ]] || complain "IMAGE_FOLDER=$images: no such folder (looked in $ROOT);" \
        "set IMAGE_FOLDER to the folder that the samples' image paths start from"
    adapter=$(value_of --pretrain_mm_mlp_adapter)
    [[ -z $adapter || -f $adapter ]] || complain "ADAPTER=$adapter: no such file (looked in $ROOT);" \
        "train one with scripts/v1_5/pretrain.sh, download LLaVA's" \
        "(for 7B: hf download liuhaotian/llava-v1.5-mlp2x-336px-pretrain-vicuna-7b-v1.5 mm_projector.bin)," \
        "or set ADAPTER='' to start from a fresh projector"
    config=$(value_of --deepspeed)
    [[ -z $config || -f $config ]] || complain "DEEPSPEED=$config: no such file (looked in $ROOT);" \
        "use one of scripts/zero*.json, or DEEPSPEED='' to train without DeepSpeed"
    [[ -n $(value_of --output_dir) ]] || complain "OUTPUT is empty; set it to the folder for the checkpoints"
    ((complaints == 0)) || exit 2
}

check_weights() { # check_weights VARIABLE FLAG KIND: a local folder, or a hub name that can be had
    local value cached
    value=$(value_of "$2")
    if [[ -z $value ]]; then
        complain "$1 is empty; set it to $3"
        return
    fi
    if [[ -e $value ]]; then
        return
    fi
    # "checkpoints/my-model" beside an existing folder "checkpoints" is a path, "lmsys/vicuna-7b-v1.5" is not
    if [[ ! $value =~ ^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$ || -d ${value%%/*} ]]; then
        complain "$1=$value: no such folder (looked in $ROOT); put the weights there, or set $1 to $3"
        return
    fi
    case ${HF_HUB_OFFLINE:-${TRANSFORMERS_OFFLINE:-0}} in
        1 | [Tt][Rr][Uu][Ee] | [Yy][Ee][Ss] | [Oo][Nn]) ;;
        *) return ;; # it will be downloaded
    esac
    cached=$(value_of --cache_dir)
    cached=${cached:-${HF_HUB_CACHE:-${HF_HOME:-$HOME/.cache/huggingface}/hub}}
    compgen -G "$cached/models--${value/\//--}/snapshots/*/config.json" >/dev/null ||
        complain "$1=$value: not in the hub cache $cached, and HF_HUB_OFFLINE forbids a download;" \
            "run 'hf download $value' while online, or set $1 to a folder"
}

has_module() {
    python -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)' "$1"
}

check_programs() {
    type -P python >/dev/null || refuse "no python on PATH; run 'make setup' or activate your environment"
    has_module transformers ||
        refuse "$(type -P python) has no transformers; run 'make setup' or activate the environment that has it"
    if [[ $LAUNCHER == deepspeed || -n $(value_of --deepspeed) ]]; then
        has_module deepspeed || refuse "LAUNCHER=$LAUNCHER, DEEPSPEED=$(value_of --deepspeed): DeepSpeed is not installed;" \
            "run 'make setup', or take LAUNCHER=torchrun DEEPSPEED=''"
    fi
    case $(value_of --report_to) in
        wandb | tensorboard)
            has_module "$(value_of --report_to)" || refuse "REPORT_TO=$(value_of --report_to): the package is not installed;" \
                "run 'make setup', or take REPORT_TO=none"
            ;;
    esac
    type -P "${command[0]}" >/dev/null || refuse "LAUNCHER=$LAUNCHER: no program ${command[0]} on PATH"
}
