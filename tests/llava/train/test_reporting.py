"""TensorBoard and Weights & Biases: what is written, and that nobody is asked anything."""

import json
import os
from types import SimpleNamespace

import pytest

from llava.errors import UserError
from llava.train import reporting
from llava.train.reporting import settle_reporting

WANDB = SimpleNamespace(report_to=["wandb"])


@pytest.fixture
def stranger(monkeypatch, tmp_path):
    """Someone who has never logged in to wandb."""
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL", "WANDB_MODE", "NETRC"):
        monkeypatch.setenv(name, "")  # so that monkeypatch puts them back
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


def installed(monkeypatch, answer):
    """Let the module under test, and no other, believe that every package is (not) there."""
    monkeypatch.setattr(reporting, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda _name: answer)))


def test_without_a_login_wandb_records_offline(stranger, caplog):
    installed(stranger, True)
    settle_reporting(WANDB)
    assert os.environ["WANDB_MODE"] == "offline"
    assert "wandb: no login found, recording offline; `wandb login` and `wandb sync`" in caplog.text


@pytest.mark.parametrize("mode", ["disabled", "offline"])
def test_a_mode_that_asks_nothing_stays(stranger, mode, caplog):
    installed(stranger, True)
    stranger.setenv("WANDB_MODE", mode)
    settle_reporting(WANDB)
    assert os.environ["WANDB_MODE"] == mode
    assert not caplog.text


def test_with_a_key_wandb_stays_online(stranger):
    installed(stranger, True)
    stranger.setenv("WANDB_API_KEY", "k" * 40)
    settle_reporting(WANDB)
    assert "WANDB_MODE" not in os.environ


def test_with_a_login_in_netrc_wandb_stays_online(stranger, tmp_path):
    installed(stranger, True)
    (tmp_path / ".netrc").write_text(f"machine api.wandb.ai login user password {'k' * 40}\n")
    settle_reporting(WANDB)
    assert "WANDB_MODE" not in os.environ
    stranger.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    settle_reporting(WANDB)
    assert os.environ["WANDB_MODE"] == "offline"


@pytest.mark.parametrize("package", ["wandb", "tensorboard"])
def test_a_missing_package_is_named_with_its_cure(package, stranger, run):
    installed(stranger, None)
    message = rf"--report_to {package}: {package} is not installed; pip install {package}, or take --report_to none"
    with pytest.raises(UserError, match=message):
        run("pretrain_fp32tower", report_to=package)


def test_tensorboard_holds_the_losses(run):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out = run("pretrain_fp32tower", report_to="tensorboard", max_steps=2)
    (folder,) = (out / "runs").iterdir()
    events = accumulator.EventAccumulator(str(folder)).Reload()
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(losses)
    assert len(events.Scalars("train/tokens_per_second")) == 2


def test_wandb_records_a_run_without_login_or_question(stranger, run, tmp_path):
    pytest.importorskip("wandb")
    stranger.setenv("WANDB_DIR", str(tmp_path))
    stranger.setattr("builtins.input", lambda *_args: pytest.fail("a question was asked"))
    run("pretrain_fp32tower", report_to="wandb", max_steps=2)
    import wandb

    wandb.finish()
    wandb.teardown()  # waits for the writer
    (recorded,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert b"train/loss" in recorded.read_bytes()
