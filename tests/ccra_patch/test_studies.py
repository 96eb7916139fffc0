"""The studies' arms: the paper's, each a command that the real scripts and the real parser take."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ccra_patch.register  # noqa: F401
from ccra_patch.studies import STUDIES
from llava.model.multimodal_projector.registry import registered_projectors
from llava.train.arguments import parse_arguments

ROOT = Path(__file__).parents[2]
ARMS = [(study, arm) for study in STUDIES for arm in STUDIES[study].arms]


def test_the_papers_arms():
    assert list(STUDIES["table3"].arms) == ["pai", "decoupled", "shuffled"]
    assert list(STUDIES["table4"].arms) == ["nothing", "pwca", "lwca", "lpwca", "smoothing"]
    widths, kernels = STUDIES["figure7"].panels
    assert list(widths.arms) == ["64", "96", "128", "160", "192", "256", "320", "384"]
    assert list(kernels.arms) == ["2", "3", "4", "5", "6", "7"]
    assert widths.arms["128"] == kernels.arms["5"]  # trained once, drawn twice
    assert len(STUDIES["figure7"].arms) == 13


def test_every_projector_that_fuses_layers_is_compared():
    fusing = {spec.name for spec in registered_projectors() if spec.settings is not None}
    assert set(STUDIES["projectors"].arms) == fusing | {"mlp2x_gelu"}


@pytest.mark.parametrize("name", STUDIES)
def test_arms_are_deltas_of_a_baseline_that_is_one_of_them(name):
    study = STUDIES[name]
    assert study.baseline in study.arms
    assert len({tuple(sorted(arm.changes.items())) for arm in study.arms.values()}) == len(study.arms)


@pytest.mark.parametrize(("study", "arm"), ARMS)
def test_the_scripts_and_the_parser_take_it(study, arm):
    changes = STUDIES[study].arms[arm].changes
    environment = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}/usr/bin:/bin", "VIRTUAL_ENV": "kept"}
    done = subprocess.run(
        ["bash", str(ROOT / "scripts/v1_5/finetune_ccra.sh")],
        env=environment | {"DRY_RUN": "1", "LAUNCHER": "python"} | changes,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    command = done.stdout.splitlines()
    model_args, _, _ = parse_arguments(command[command.index("llava/train/train_mem.py") + 1 :])
    given = {"projector": model_args.mm_projector_type} | vars(model_args)
    for variable, value in changes.items():
        setting = given[variable.lower()]
        assert (" ".join(setting) if isinstance(setting, list) else str(setting)) == value
