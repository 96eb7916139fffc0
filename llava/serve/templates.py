"""Which conversation template a model was trained with: its own record says, else its name."""

import json
from pathlib import Path

from llava.conversation import Conversation, SeparatorStyle, conv_templates
from llava.errors import UserError
from llava.train.run_record import RECORD


def template_of_checkpoint(model_path: str) -> str | None:
    """The template in the record that this project's training leaves in a checkpoint; None without a usable one."""
    record = Path(model_path) / RECORD
    if not record.is_file():
        return None
    try:
        version = json.loads(record.read_text(encoding="utf-8"))["settings"]["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{record} is not a record of training ({error!r}); restore it or delete it") from error
    # What --version means to train.py: v0 and whatever is no template train with vicuna_v1.
    return version if version in conv_templates and version not in ("v0", "v0.5") else "vicuna_v1"


def template_for_name(model_name: str) -> str:
    """The template of a model by its name, as LLaVA's web page chooses it."""
    name = model_name.lower()
    is_plain = "mmtag" in name or ("plain" in name and "finetune" not in name)
    if "llava" not in name:
        return "mpt" if "mpt" in model_name else "llama_2" if "llama-2" in model_name else "vicuna_v1"
    if "llama-2" in name:
        return "llava_llama_2"
    if "mistral" in name or "mixtral" in name:
        # orca is a ChatML model; the template that upstream names for it does not exist
        return "chatml_direct" if "orca" in name or "hermes" in name else "mistral_instruct"
    if "llava-v1.6-34b" in name:
        return "chatml_direct"
    if "v1" in name:
        return "v1_mmtag" if is_plain else "llava_v1"
    if "mpt" in name:
        return "mpt"
    return "v0_mmtag" if is_plain else "llava_v0"


def stop_of(conversation: Conversation) -> str | None:
    """The string that ends an assistant's turn."""
    if conversation.sep_style in (SeparatorStyle.SINGLE, SeparatorStyle.MPT):
        return conversation.sep
    return conversation.sep2
