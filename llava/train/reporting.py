"""Where losses go: the progress bar, TensorBoard, Weights & Biases - none of which may ask a question."""

import importlib.util
import logging
import os
import time
from typing import Any

import torch
import torch.distributed as dist
from requests.utils import get_netrc_auth
from transformers import ProgressCallback, TrainerCallback

from llava.constants import IMAGE_TOKEN_INDEX
from llava.errors import UserError

logger = logging.getLogger(__name__)

WANDB_CREDENTIALS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
WANDB_SILENT_MODES = ("offline", "disabled", "dryrun")


def settle_reporting(training_args: Any) -> None:
    """Check that what ``--report_to`` names is installed; without a login, let wandb record offline.

    wandb would ask for a login at the first step, on a cluster for ever. UserError for a package that is missing.
    """
    for package in {"wandb", "tensorboard"} & set(training_args.report_to):
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"--report_to {package}: {package} is not installed; pip install {package}, or take --report_to none"
            )
    if "wandb" not in training_args.report_to or os.environ.get("WANDB_MODE") in WANDB_SILENT_MODES:
        return
    server = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    if not any(os.environ.get(name) for name in WANDB_CREDENTIALS) and get_netrc_auth(server) is None:
        os.environ["WANDB_MODE"] = "offline"
        logger.warning("wandb: no login found, recording offline; `wandb login` and `wandb sync` upload the run later")


class TokenMeter:
    """Tokens per second that the language model reads on all ranks, pictures in full, padding not.

    Args:
        accelerator: of the trainer; knows device and ranks.
        image_tokens: what one picture, or one tile, becomes.
    """

    def __init__(self, accelerator: Any, image_tokens: int) -> None:
        self.accelerator = accelerator
        self.image_tokens = image_tokens
        self.restart()

    def restart(self) -> None:
        """Start counting now."""
        self.tokens = torch.zeros((), dtype=torch.long, device=self.accelerator.device)
        self.since = time.perf_counter()

    def add(self, inputs: dict[str, Any]) -> None:
        """Count a batch, on the device: nothing waits for the sum."""
        is_picture = inputs["input_ids"] == IMAGE_TOKEN_INDEX
        self.tokens += inputs["attention_mask"].sum() - is_picture.sum()
        if inputs.get("images") is not None:
            tiles = sum(len(image) if image.ndim == 4 else 1 for image in inputs["images"])
            unread = (~is_picture.any(dim=1)).sum()  # a text comes with a blank picture
            self.tokens += self.image_tokens * (tiles - unread)

    def rate(self) -> float:
        """Tokens per second since the last call. All ranks must call."""
        tokens, seconds = self.accelerator.reduce(self.tokens).item(), time.perf_counter() - self.since
        self.restart()
        return round(tokens / seconds, 1)


class ProgressWithSpeed(ProgressCallback):
    """transformers' bar with the latest loss and tokens per second behind it."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        super().on_log(args, state, control, logs=logs, **kwargs)
        if self.training_bar is not None and "tokens_per_second" in logs:
            self.training_bar.set_postfix_str(f"loss {logs['loss']:.3f}, {logs['tokens_per_second']:,.0f} tokens/s")


class SkippedSamples(TrainerCallback):
    """At the end: how many samples ``--bad_image_policy skip`` left out, over all ranks."""

    def __init__(self, collator: Any) -> None:
        self.collator = collator

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        skipped = torch.tensor(self.collator.skipped, device=args.device)
        if dist.is_initialized():
            dist.all_reduce(skipped)
        if skipped and state.is_world_process_zero:
            logger.warning("%d samples with bad pictures were left out; the warnings above name them", skipped)
