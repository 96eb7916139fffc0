import sys
from pathlib import Path

import pytest

from llava.errors import UserError
from llava.eval import published
from llava.eval.published import COLUMNS, published_scores, read_tables, result_line
from llava.eval.scores import Metric, record_scores


def test_the_tables_are_the_papers() -> None:
    tables = {table.source: table for table in read_tables()}
    assert list(tables) == [
        "CCRA, Table 1",
        "CCRA, Table 3",
        "CCRA, Table 4",
        "AttAnchor, by threshold",
        "AttAnchor, by direction",
    ]
    ccra = tables["CCRA, Table 1"].rows
    assert len(ccra) == 12
    assert list(ccra["CCRA"].values()) == [64.2, 71.3, 63.1, 54.6, 67.9, 37.5, 69.6, 37.6, 1525.6, 88.9]
    assert tables["CCRA, Table 3"].rows["PAI"] == ccra["CCRA"]
    assert tables["CCRA, Table 4"].rows["w/o LPWCA"]["MME-P"] == 1514.6
    by_threshold = tables["AttAnchor, by threshold"].rows
    assert len(by_threshold) == 6
    assert all(len(row) == 15 for row in by_threshold.values())
    assert by_threshold["TinyLLaVA-1B, AttAnchor 0.08"]["POPE"] == 85.1
    assert by_threshold["TinyLLaVA-1B"]["validation loss"] == 1.0716
    assert tables["AttAnchor, by direction"].rows["Qwen2.5-VL-3B, image into text"]["MME-P+C"] == 2022


def test_every_column_belongs_to_a_benchmark() -> None:
    assert {column for table in read_tables() for column in table.columns} == set(COLUMNS.values())


def test_a_line_sets_a_score_beside_the_published_ones(tmp_path: Path) -> None:
    answers = tmp_path / "a.jsonl"
    answers.write_text("{}\n")
    record_scores(answers, {"pope_f1": Metric.mean({"1": 1.0, "2": 0.0})})
    assert result_line("pope", str(answers), "pope_f1", None) == (
        "POPE: 50.00 ± 35.36 (n=2) | LLaVA-v1.5-7B 86.9 | LLaVA-v1.5-13B 87.2 | IGVA 87.8 | CCRA 88.9 | LLaVA-7B 86.6 "
        "| LLaVA-7B, text into image 86.7 | LLaVA-7B, image into text 86.63"
    )
    assert result_line("mmvet", str(answers), "mmvet_total", "no judge").startswith(
        "MM-Vet: no score here (no judge) | LLaVA-v1.5-7B 32.8 | "
    )
    with pytest.raises(UserError, match="has no score 'gqa'; it has pope_f1"):
        result_line("gqa", str(answers), "gqa", None)
    with pytest.raises(UserError, match="benchmark is 'coco'; it must be one of gqa, sqa"):
        published_scores("coco")


def test_without_a_benchmark_all_tables_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["published"])
    published.main()
    lines = capsys.readouterr().out.splitlines()
    header = next(line for line in lines if "MM-Vet" in line)
    row = next(line for line in lines if line.startswith("LLaMA-Adapter-v2"))
    assert row.split()[1:] == ["-", "-", "-", "41.0", "31.5", "32.7", "29.8", "972.7", "-", "-"]
    assert row.index("41.0") + 4 == header.index("VizWiz") + 6  # right-aligned under its title
