import json
import re
import subprocess
from pathlib import Path

import pytest

from llava.errors import UserError
from llava.eval import provenance
from llava.eval.provenance import (
    add_digests,
    add_score,
    environment,
    fingerprint,
    provenance_path,
    read_provenance,
    write_provenance,
)


def checkpoint(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(1000))
    return folder


def test_a_checkpoint_keeps_its_fingerprint_when_it_moves_and_loses_it_with_a_bit(tmp_path: Path) -> None:
    first = checkpoint(tmp_path / "a")
    same = checkpoint(tmp_path / "b" / "c")
    (same / "trainer_state.json").write_text("{}")
    (same / "training_args.bin").write_text("x")
    (same / "README.md").write_text("x")
    assert fingerprint(str(first)) == fingerprint(str(same))
    (same / "model.safetensors").write_bytes(bytes(999) + b"\1")
    assert fingerprint(str(first)) != fingerprint(str(same))
    (same / "model.safetensors").write_bytes(bytes(1000))
    (same / "tokenizer.model").write_text("x")
    assert fingerprint(str(first)) != fingerprint(str(same))


def test_a_hub_checkpoint_is_known_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = tmp_path / "models--owner--name" / "snapshots" / "0123abc" / "config.json"
    monkeypatch.setattr(provenance, "hf_hub_download", lambda name, file: str(cached))
    assert fingerprint("owner/name") == {"commit": "0123abc"}


@pytest.mark.parametrize("name", ["./checkpoints/none", "owner/name-that-is-nowhere"])
def test_a_checkpoint_that_is_nowhere_is_named(name: str) -> None:
    with pytest.raises(UserError, match=f"checkpoint {name} is neither a folder here nor to be had from the hub"):
        fingerprint(name)


def test_scores_join_the_provenance(tmp_path: Path) -> None:
    answers = tmp_path / "a.jsonl"
    with pytest.raises(UserError, match=r"a\.jsonl\.provenance\.json is not there"):
        add_score(answers, "accuracy", {"value": 1.0})
    write_provenance(answers, {"items": 3})
    add_score(answers, "accuracy", {"value": 1.0})
    add_score(answers, "open", {"value": 2.0})
    assert read_provenance(answers) == {"items": 3, "scores": {"accuracy": {"value": 1.0}, "open": {"value": 2.0}}}
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl.provenance.json"]


def test_a_damaged_provenance_is_named(tmp_path: Path) -> None:
    provenance_path(tmp_path / "a.jsonl").write_text("{")
    with pytest.raises(UserError, match=r"a\.jsonl\.provenance\.json is not JSON .*; delete it and evaluate anew"):
        read_provenance(tmp_path / "a.jsonl")


def test_the_commit_is_this_projects_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def commit_of_copy() -> str | None:
        return environment()["commit"]

    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.com")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    copy = tmp_path / "site-packages" / "provenance.py"
    copy.parent.mkdir()
    copy.write_text("")
    monkeypatch.setattr(provenance, "__file__", str(copy))
    assert commit_of_copy() is None
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "another project's")
    assert commit_of_copy() is None
    git("add", ".")
    git("commit", "-q", "-m", "this one")
    assert re.fullmatch("[0-9a-f]{40}", commit_of_copy())
    copy.write_text("changed")
    assert re.fullmatch(r"[0-9a-f]{40}\+changes", commit_of_copy())


def test_versions_are_those_installed() -> None:
    versions = environment()["versions"]
    assert versions["torch"].startswith("2.")
    assert json.dumps(versions)


def test_digests_of_chunks_add_up_to_that_of_the_whole() -> None:
    digests = [2**256 - 1, 2**255, 12345, 2**200]
    assert add_digests([add_digests(digests[:1]), add_digests(digests[1:])]) == add_digests(digests[::-1]) < 2**256
