"""Shared set-up: one thread (reproducible sums, two workers fit two cores), no network, goldens by name."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)

GOLDENS = Path(__file__).parent / "goldens"


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Recorded results of upstream LLaVA v1.2.2 on tiny models, and those models."""
    return GOLDENS


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Upstream's tiny checkpoints as the folders it wrote. Writable, so treat it as read-only."""
    return assemble_assets(tmp_path_factory.mktemp("assets"))


def assemble_assets(root: Path) -> Path:
    """Puts upstream's tiny checkpoints into a folder as upstream wrote them.

    In git each weight is stored once: a ``llava_tiny_*`` folder keeps only the tensors of its own, the language
    model and the vision tower come from ``vicuna_tiny`` and ``clip_tiny*``.
    """
    shutil.copytree(GOLDENS / "assets", root, dirs_exist_ok=True)
    vicuna = load_file(root / "vicuna_tiny" / "model.safetensors")
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        if folder.name.startswith(("llava_tiny", "vicuna", "tokenizer_legacy", "tokenizer_nonlegacy")):
            shutil.copy(root / "tokenizer.model", folder)
        if not folder.name.startswith("llava_tiny"):
            continue
        config_text = (folder / "config.json").read_text().replace("@GOLDENS@/assets", str(root))
        (folder / "config.json").write_text(config_text)
        tower = load_file(Path(json.loads(config_text)["mm_vision_tower"]) / "model.safetensors")
        weights = vicuna | {f"model.vision_tower.vision_tower.{name}": value for name, value in tower.items()}
        if (folder / "own.safetensors").exists():
            weights |= load_file(folder / "own.safetensors")
            (folder / "own.safetensors").unlink()
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    pickled = root / "llava_tiny_mlp2x_gelu_bin"
    shutil.copytree(root / "llava_tiny_mlp2x_gelu", pickled)
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    return root


@pytest.fixture(scope="session")
def make_ccra(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``make_ccra(mm_ccra_kernel_size=3)``: a tiny checkpoint with a ccra projector, as training saves it.

    Flags of ModelArguments, and keys of the model's config. Every combination is built once; treat it as read-only.
    """
    from llava import conversation
    from llava.model.builder import load_config, read_json
    from llava.query_markers import query_markers
    from llava.tokenization import load_tokenizer
    from llava.train.arguments import ModelArguments

    built: dict[str, Path] = {}
    fixed = {
        "vision_tower": str(assets / "clip_tiny"),
        "mm_vision_select_layer": -2,
        "mm_projector_type": "ccra",
        "mm_use_im_patch_token": False,
    }

    def make(**flags: Any) -> Path:
        key = json.dumps(flags, sort_keys=True)
        if key in built:
            return built[key]
        folder = tmp_path_factory.mktemp("ccra") / "llava-tiny-v1-ccra"
        source = str(assets / "vicuna_tiny")
        config, model_class = load_config(read_json(f"{source}/config.json"), source)
        torch.manual_seed(0)
        model = model_class.from_pretrained(source, config=config, dtype=torch.float32)
        known = {name: value for name, value in flags.items() if name in ModelArguments.__dataclass_fields__}
        model.get_model().initialize_vision_modules(ModelArguments(**({"mm_ccra_hidden_dim": 16} | fixed | known)))
        others = {name: value for name, value in flags.items() if name not in known}
        for name, value in {"image_aspect_ratio": "pad", "mm_use_im_patch_token": False, **others}.items():
            setattr(model.config, name, value)
        markers = query_markers(conversation.conv_templates["v1"], load_tokenizer(source))
        model.config.mm_query_markers = markers.to_dict()
        model.save_pretrained(folder)
        for file in Path(source).glob("tokenizer*"):
            shutil.copy(file, folder)
        built[key] = folder
        return folder

    return make


@pytest.fixture(scope="session")
def sentence_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random sentence encoder that spells out its words, 12 wide, for texts of up to 40 letters."""
    import string

    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("sentence_encoder")
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    pieces = [*special, *string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase), "?", "."]
    tokenizer = BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)})
    tokenizer.model_max_length = 42
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    # Weights large enough for different texts to differ.
    BertModel(BertConfig(vocab_size=len(pieces), initializer_range=0.5, **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture
def write_lines(tmp_path: Path) -> Callable[..., str]:
    """``write_lines("a.jsonl", {...}, {...})`` -> the path of a JSON Lines file."""

    def write(name: str, *records: object) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        return str(path)

    return write
