"""The one way from items to an answers file, which every answer-writing driver takes.

A driver is a thin file over this one: it reads its question file, takes its chunk, turns each record into an
:class:`~llava.eval.items.Item` and calls :func:`answer_items`.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from llava.attanchor import enable_attanchor
from llava.conversation import conv_templates
from llava.errors import UserError
from llava.eval.answers import AnswersFile, find_finished
from llava.eval.batches import ItemDataset, load_batches, plan_batches
from llava.eval.generation import generate_texts
from llava.eval.items import Item, check_items, render_prompt, resolve_conv_mode
from llava.eval.provenance import (
    add_digests,
    close_record,
    environment,
    file_digest,
    fingerprint,
    now,
    read_provenance,
    refuse_other_settings,
    write_provenance,
)
from llava.eval.settings import DriverSettings
from llava.mm_utils import get_model_name_from_path
from llava.model.builder import load_pretrained_model


def answer_items(items: Sequence[Item], settings: DriverSettings, *, plain_uses_mmtag: bool = False) -> None:
    """Answers all items into the answers file, and writes their provenance beside it.

    What the user can have got wrong is refused before the model loads and before any file is touched (UserError). A
    chunk without items gives an empty answers file. ``plain_uses_mmtag`` is :func:`resolve_conv_mode`'s rule, which not
    all of upstream's drivers follow.
    """
    # 1. the question side
    path = Path(settings.answers_file).expanduser()
    model_name = get_model_name_from_path(settings.model_path)
    conv_mode = resolve_conv_mode(settings.conv_mode, model_name, plain_uses_mmtag)
    check_items(items)
    provenance = _describe_run(items, settings, conv_mode)

    # 2. what an earlier run has left
    finished = kept_bytes = 0
    if settings.resume:
        before = read_provenance(path) or {}
        finished, kept_bytes = find_finished(path, items, model_name)
        if "settings" in before:
            refuse_other_settings(path, before["settings"], provenance["settings"])
        if before.get("status") == "complete" and finished == len(items):
            print(f"{path} is complete: nothing to do")
            return
        provenance["resumed_at"] = [*before.get("resumed_at", []), finished]
    answers = AnswersFile(path, items, model_name, finished, kept_bytes)
    if not items:
        with answers:
            close_record(path, provenance)
        return

    # 3. the model, and the batches for it
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer, model, image_processor, _ = load_pretrained_model(
        settings.model_path, settings.model_base, model_name, device=device
    )
    if image_processor is None and (settings.attanchor or any(item.images for item in items)):
        needs = "AttAnchor needs" if settings.attanchor else "these questions need"
        raise UserError(f"{settings.model_path} is a text-only model; {needs} one with a vision tower")
    if settings.attanchor:
        enable_attanchor(model, tokenizer, conv_templates[conv_mode], **settings.attanchor)
    provenance["model"] = _describe_model(model)
    dataset = ItemDataset(items, tokenizer, image_processor, model.config, conv_mode)
    plan = plan_batches(dataset, settings.batch_size)

    # 4. answers, batch by batch; a batch that is answered already only adds to the digest of the inputs
    digests: list[int] = []
    started = time.monotonic()
    with answers, tqdm(total=len(items), unit="question", desc=path.name) as progress:
        write_provenance(path, provenance)
        for number, (indices, batch) in enumerate(load_batches(dataset, plan, settings.workers)):
            digests += batch.digests
            if max(indices) >= finished:
                # Every batch has a seed of its own, so that a resumed run samples what the first one would have.
                torch.manual_seed(settings.seed + number)
                answers.add(indices, generate_texts(model, tokenizer, settings.sampling, **batch.model_inputs()))
            progress.update(len(indices))

    # 5. the record is closed
    provenance["inputs_digest"] = f"{add_digests(digests):064x}"
    provenance["time"] |= {"finished": now(), "seconds": round(time.monotonic() - started, 3)}
    close_record(path, provenance)


def _describe_run(items: Sequence[Item], settings: DriverSettings, conv_mode: str) -> dict[str, Any]:
    """What is known before the model loads. Under ``settings`` is what answers depend on, the same in a resumed run."""
    depends_on = {
        "checkpoint": fingerprint(settings.model_path),
        "model_base": fingerprint(settings.model_base) if settings.model_base else None,
        "conv_mode": conv_mode,
        "prompt_template": render_prompt("{question}", conv_mode),
        **asdict(settings.sampling),
        **settings.attanchor,
    }
    if settings.sampling.temperature > 0:  # greedy answers depend on neither
        depends_on |= {"batch_size": settings.batch_size, "random_seed": settings.seed}
    return {
        "status": "running",
        "settings": depends_on,
        "checkpoint": settings.model_path,
        "model_base": settings.model_base,
        "questions": {
            "file": settings.question_file,
            "sha256": file_digest(Path(settings.question_file).expanduser()),
            "num_chunks": settings.num_chunks,
            "chunk_idx": settings.chunk_idx,
        },
        "items": len(items),
        "inputs_digest": f"{0:064x}",
        "batch_size": settings.batch_size,
        "random_seed": settings.seed,
        "resumed_at": [],
        "environment": environment(),
        "time": {"started": now(), "finished": None, "seconds": 0.0},
    }


def _describe_model(model: Any) -> dict[str, Any]:
    tower = getattr(model.config, "mm_vision_tower", None)
    return {
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "vision_tower": fingerprint(tower) if tower else None,
        "config": json.loads(model.config.to_json_string(use_diff=False)),
    }
