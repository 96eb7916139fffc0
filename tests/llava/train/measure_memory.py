"""Train a small random model in this process and print its peak memory beside the estimate, as JSON. Not a test.

argv: folder to work in, folder of a tokenizer, flags of the trainer.
"""

import json
import sys
from pathlib import Path

import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from llava.tokenization import load_tokenizer
from llava.train import train as train_module
from llava.train.memory import Recipe, Shapes, estimate, mlp_parameters

LANGUAGE = LlamaConfig(
    vocab_size=1500, hidden_size=384, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=6, pad_token_id=0
)
VISION = CLIPVisionConfig(
    hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4, image_size=224, patch_size=14
)
TEXT = "What is on the table? " * 20
BATCH = 4


def megabytes(field: str) -> float:
    """VmRSS or VmHWM of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def build(root: Path, tokenizer_folder: str, language: LlamaConfig) -> int:
    """Models, pictures and data under ``root``; returns the text's length in tokens."""
    LlamaForCausalLM(language).save_pretrained(root / "language")
    tokenizer = load_tokenizer(tokenizer_folder)
    tokenizer.save_pretrained(root / "language")
    CLIPVisionModel(VISION).save_pretrained(root / "vision")
    processor = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 224}}
    processor |= {"crop_size": {"height": 224, "width": 224}}
    (root / "vision" / "preprocessor_config.json").write_text(json.dumps(processor))
    Image.new("RGB", (224, 224)).save(root / "picture.png")
    turns = [{"from": "human", "value": f"<image>\n{TEXT}"}, {"from": "gpt", "value": TEXT}]
    samples = [{"id": i, "image": "picture.png", "conversations": turns} for i in range(2 * BATCH)]
    (root / "data.json").write_text(json.dumps(samples))
    return 2 * len(tokenizer(TEXT).input_ids) + 40  # and the template around them


def flags_for(root: str, flags: list[str]) -> list[str]:
    """The trainer's command line for what :func:`build` wrote under ``root``."""
    return [
        *("--model_name_or_path", f"{root}/language", "--vision_tower", f"{root}/vision"),
        *("--data_path", f"{root}/data.json", "--image_folder", root, "--output_dir", f"{root}/out"),
        *("--version", "v1", "--mm_projector_type", "mlp2x_gelu", "--mm_use_im_patch_token", "False"),
        *(
            "--max_steps",
            "2",
            "--per_device_train_batch_size",
            str(BATCH),
            "--report_to",
            "none",
            "--save_strategy",
            "no",
        ),
        *("--learning_rate", "1e-4", *flags),
    ]


def main() -> None:
    root, tokenizer_folder, *flags = sys.argv[1:]
    torch.set_num_threads(1)
    train_module.safe_save_model_for_hf_trainer = lambda trainer, folder: None  # the step is what is measured

    # A run of next to nothing first: what libraries load and compile when they are first used is not the model's.
    nothing = LlamaConfig(
        **(LANGUAGE.to_diff_dict() | {"hidden_size": 12, "intermediate_size": 8, "num_hidden_layers": 1})
    )
    build(Path(root, "nothing"), tokenizer_folder, nothing)
    train_module.train("sdpa", flags_for(f"{root}/nothing", flags))

    length = build(Path(root), tokenizer_folder, LANGUAGE)
    before = megabytes("VmRSS")
    train_module.train("sdpa", flags_for(root, flags))
    measured = megabytes("VmHWM") - before

    shapes = Shapes.from_configs(LANGUAGE.to_dict(), VISION.to_dict())
    given = dict(zip(flags[::2], flags[1::2], strict=True))
    recipe = Recipe(
        batch_size=BATCH,
        sequence_length=length + shapes.vision_patches,
        projector_parameters=mlp_parameters(shapes),
        labelled_length=length // 2,
        trains="projector" if "--tune_mm_mlp_adapter" in given else "lora" if "--lora_enable" in given else "all",
        lora_rank=int(given.get("--lora_r", 64)),
        half_precision=given.get("--bf16") == "True",
        zero_stage=0,
        gradient_checkpointing=given.get("--gradient_checkpointing") == "True",
    )
    parts = {name: size / 2**20 for name, size in estimate(shapes, recipe).items()}
    print("MEASURED", json.dumps({"measured": measured, "estimate": sum(parts.values()), "parts": parts}))


if __name__ == "__main__":
    main()
