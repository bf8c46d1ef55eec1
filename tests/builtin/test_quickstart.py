"""The demo as a newcomer runs it: the bundled job, data and models, through the command line."""

import json
from pathlib import Path

import pandas as pd
import pytest

from secbatch.cli.main import _run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("demo") / "quickstart"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        assert _run(["run", "jobs/quickstart.yaml", "--output", str(output)]) == 0
    return output


def test_every_sample_row_comes_out_once(quickstart: Path) -> None:
    given = pd.read_csv(ROOT / "sample_data/sentences.csv", dtype=str, keep_default_na=False)
    rows = pd.read_parquet(quickstart / "data")
    assert sorted(zip(rows["report_id"], rows["line"].astype(str), rows["sentence"], strict=True)) == sorted(
        zip(given["report_id"], given["line"], given["sentence"], strict=True)
    )
    masks = rows["sentence"].str.count("<mask>")
    found = [0 if words is None else len(words) for words in rows["mask_predictions"]]
    assert found == masks.tolist()
    assert (rows["answer"].notna() == (rows["question"] != "")).all()
    assert rows["vec"].notna().sum() == len(rows)
    assert (rows["secbatch_status"] == "ok").all()


def test_the_models_say_something_true(quickstart: Path) -> None:
    rows = pd.read_parquet(quickstart / "data").set_index("sentence")
    cookies = next(sentence for sentence in rows.index if sentence.startswith("Adversaries may also compromise sites"))
    assert "malicious" in [word["token"] for word in rows.loc[cookies, "mask_predictions"][0]]
    answers = rows[rows["question"] != ""].set_index("question")["answer"]
    assert "denial" in answers["What is DDoS"].lower() or "traffic" in answers["What is DDoS"].lower()


def test_a_second_run_computes_nothing(quickstart: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert _run(["run", "jobs/quickstart.yaml", "--output", str(quickstart)]) == 0
    record = json.loads((quickstart / "_secbatch/runs/latest.json").read_text())
    counts = record["counts"]
    assert counts["enriched"] == 0 and counts["reused"] == counts["read"] == 256


def test_the_other_bundled_jobs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for name in ("one-off", "reports", "classify-zero-shot"):
        assert _run(["run", f"jobs/{name}.yaml", "--output", str(tmp_path / name), "--limit", "12"]) in (0, 3)
        assert len(pd.read_parquet(tmp_path / name / "data")) == 12
