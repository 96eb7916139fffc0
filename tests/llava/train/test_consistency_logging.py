"""Table 2 in the log of a training run."""

import json
from pathlib import Path

import pytest

from ccra_patch.metrics import COLUMNS, consistency
from ccra_patch.recorder import recorded_calls
from llava import conversation
from llava.errors import UserError
from llava.train import consistency_logging
from llava.train.llava_trainer import LLaVATrainer
from llava.train.train import train


@pytest.fixture
def run(goldens, assets, tmp_path, monkeypatch):
    """Stage 2 with ccra on the golden samples; gives the log's lines and the losses."""
    monkeypatch.setattr(conversation, "default_conversation", conversation.default_conversation)

    def start(name: str, **changes: object) -> list[dict[str, float]]:
        argv = json.loads((goldens / "train" / "pretrain_fp32tower.json").read_text())["argv"]
        flags = dict(zip(argv[::2], argv[1::2], strict=True))
        flags |= {"--mm_projector_type": "ccra", "--mm_ccra_hidden_dim": "8", "--output_dir": str(tmp_path / name)}
        flags |= {"--logging_steps": "2", "--max_steps": "4", "--gradient_accumulation_steps": "2"}
        flags.pop("--pretrain_mm_mlp_adapter", None)
        flags |= {f"--{key}": str(value) for key, value in changes.items()}
        argv = [part for pair in flags.items() for part in pair]
        train(
            attn_implementation="sdpa",
            argv=[a.replace("@GOLDENS@/assets", str(assets)).replace("@GOLDENS@", str(goldens)) for a in argv],
        )
        return json.loads((Path(tmp_path) / name / "trainer_state.json").read_text())["log_history"]

    return start


def test_every_logged_step_carries_its_pictures_consistency(run, monkeypatch):
    seen: dict[int, list[dict[str, float]]] = {}
    step = LLaVATrainer.training_step

    def training_step(self, model, *args, **kwargs):
        with recorded_calls(model) as calls:
            loss = step(self, model, *args, **kwargs)
        rows = consistency(*calls[0])
        seen.setdefault(self.state.global_step + 1, []).append(
            {
                f"{row}/{name}": getattr(rows[row], column).mean().item()
                for row in rows
                for column, name in COLUMNS.items()
            }
        )
        return loss

    measured = []
    monkeypatch.setattr(
        consistency_logging, "consistency", lambda *given: measured.append(given) or consistency(*given)
    )
    monkeypatch.setattr(LLaVATrainer, "training_step", training_step)
    lines = run("logged", log_consistency=True)
    assert len(measured) == 2 * 2, "two of four steps are logged, of two batches each"
    logged = {line["step"]: line for line in lines if "F_lp/JS-avg" in line}
    assert list(logged) == [2, 4]
    for number, line in logged.items():
        batches = seen[number]
        assert len(batches) == 2
        for name in batches[0]:
            assert line[name] == pytest.approx(sum(batch[name] for batch in batches) / 2, abs=1e-6), name


def test_it_is_off_by_default_and_changes_no_loss(run):
    with_it, without = run("with", log_consistency=True), run("without")
    assert not [line for line in without if "F_lp/JS-avg" in line]
    losses = [[line["loss"] for line in lines if "loss" in line] for lines in (with_it, without)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 2


@pytest.mark.parametrize("changes", [{"mm_projector_type": "mlp2x_gelu"}, {"mm_ccra_disable": "lpwca"}])
def test_a_model_without_lpwca_is_refused(changes, run):
    if "mm_projector_type" in changes:
        changes = changes | {"mm_ccra_hidden_dim": 128}
    with pytest.raises(UserError, match="--log_consistency needs --mm_projector_type ccra with lpwca"):
        run("refused", log_consistency=True, **changes)
