"""``--dry_run``: it says what a run costs and leaves nothing behind."""

import pytest

from llava.errors import UserError


@pytest.mark.parametrize("recorded", ["pretrain_fp32tower", "finetune_fp32tower", "lora"])
def test_nothing_is_left(recorded, run, tmp_path, capsys):
    out = tmp_path / "out"
    run(recorded, dry_run=True)
    said = capsys.readouterr().out
    assert "dry run: one step of 2 samples a device took" in said
    assert "GB of memory at the most; the save wrote 0.0" in said
    assert not out.exists()


def test_a_run_that_is_there_stays_as_it_is(run, tmp_path):
    out = run("pretrain_fp32tower", max_steps=2, save_steps=1)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    run("pretrain_fp32tower", max_steps=2, save_steps=1, dry_run=True)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    with pytest.raises(UserError, match="holds another run"):
        run("pretrain_fp32tower", learning_rate=0.5, dry_run=True)
