"""A config.json that transformers 4, and so upstream LLaVA, reads as well as transformers 5 does."""

from typing import Any


class ReadableByTransformers4:
    """Mix-in before a config class: writes ``rope_theta``, ``rope_scaling`` and ``torch_dtype`` beside their new names.

    A reader of transformers 4 does not know ``rope_parameters``: it would take a base of 10000, which is wrong for
    Mistral and Llama 3, and no scaling. transformers 5 reads both spellings and finds the same values.
    """

    def to_diff_dict(self) -> dict[str, Any]:
        """What ``save_pretrained`` writes."""
        saved = super().to_diff_dict()
        rope = saved.get("rope_parameters")
        if rope is not None:
            saved["rope_theta"] = rope["rope_theta"]
            if rope.get("rope_type", "default") != "default":
                saved["rope_scaling"] = _rope_scaling(rope)
        if "dtype" in saved:
            saved["torch_dtype"] = saved["dtype"]
        return saved


def _rope_scaling(rope: dict[str, Any]) -> dict[str, Any]:
    if rope["rope_type"] in ("linear", "dynamic"):  # transformers 4.37 takes exactly these two keys
        return {"type": rope["rope_type"], "factor": rope["factor"]}
    return {key: value for key, value in rope.items() if key != "rope_theta"}
