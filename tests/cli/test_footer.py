"""What `secbatch show` makes of a file whose footer, or whose columns, somebody else has written."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from secbatch.cli.footer import tasks_of
from secbatch.cli.main import _run
from secbatch.tasks.generated_text import text_fields
from secbatch.tasks.label_columns import label_fields
from secbatch.tasks.mask_columns import mask_fields
from secbatch.tasks.ner_columns import span_fields
from secbatch.tasks.qa_columns import answer_fields
from secbatch.tasks.similarity import SimilarityTask

TEXT = {"text": "t"}


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(footer: bytes, **columns: Any) -> None:
    table = pa.table({"t": ["a", "b"], "secbatch_status": ["ok", "rejected"], **columns})
    pq.write_table(table.replace_schema_metadata({b"secbatch": footer}), "copy.parquet")


def specs(**tasks: Any) -> bytes:
    return json.dumps({"specs": tasks}).encode()


@pytest.mark.parametrize("footer", [b"[1]", b"5", b'"x"', b"NaN", b"\xff", b"[" * 100_000, b"1" * 5000])
def test_a_footer_that_is_none(footer: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    written(footer)
    assert _run(["show", "copy.parquet"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("Error: 'copy.parquet' cannot be read") and "give the output of" in told


@pytest.mark.parametrize(
    "footer",
    [
        b'{"specs": [1]}',
        b'{"job": 1, "models": {"v": "x"}}',
        *(specs(v=task) for task in ("x", TEXT, {"type": "embed"}, {"type": ["embed"], **TEXT})),
        *(specs(v={"type": kind, "text": text}) for kind, text in (("embed", 5), ("embed", "t"), ("other", "t"))),
        *(specs(v={"type": kind, **TEXT}) for kind in ("fill-mask", "chat", "similarity", "classify", "ner")),
        specs(v={"type": "qa", "question": "t", "context": "t"}),
    ],
)
def test_a_task_that_the_columns_do_not_bear_out_is_left_out(footer: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    written(footer, v=[1, 2], v_predictions=[1, 2], v_score=["x", "y"], v_scores=[[1], []])
    assert _run(["show", "copy.parquet", "--models"]) == 0
    told = capsys.readouterr()
    assert "Row: t=b · v=2 · v_predictions=2" in told.out and not told.err


def test_a_copy_without_the_places_of_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    """As of somebody who chose columns and kept the metadata."""
    written(specs(v={"type": "embed", **TEXT}), v=[[0.5], None], secbatch_error=[None, "a reason"])
    assert _run(["show", "copy.parquet"]) == 0
    assert capsys.readouterr().out == "Input: a\nv: [0.500, ...] (1 number)\n\nRow: t=b\nRejected: a reason\n"


def test_the_models_of_a_file_without_a_folder_stand_in_its_footer(capsys: pytest.CaptureFixture[str]) -> None:
    models = {"v": {"model": "tiny", "weights": "0123456789abcdef"}, "w": "no model"}
    footer = {"specs": {"v": {"type": "embed", **TEXT}}, "models": models}
    written(json.dumps(footer).encode(), v=[[0.5], None], secbatch_run=["r", "r"])
    assert _run(["show", "copy.parquet", "--models", "--rows", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "Models: v = tiny (weights 0123456789ab) (run r)"


def test_the_columns_of_all_tasks_are_known() -> None:
    similarity = object.__new__(SimilarityTask)
    similarity.name = "x"
    fields = {
        "fill-mask": mask_fields("x"),
        "embed": (pa.field("x", pa.list_(pa.float32())),),
        "chat": text_fields("x"),
        "seq2seq": text_fields("x"),
        "ner": span_fields("x"),
        "qa": answer_fields("x", several=True),
        "similarity": similarity.fields,
    }
    columns = [*fields.items(), ("classify", label_fields("x", "single-label"))]
    for kind, made in [*columns, ("classify", label_fields("x", "multi-label"))]:
        pq.write_table(pa.schema(made).empty_table(), "made.parquet")
        spec = {"type": kind, "text": "t", "question": "t", "context": "t"}
        assert tasks_of({"specs": {"x": spec}}, pq.read_schema("made.parquet")) == {"x": spec}


@pytest.mark.parametrize("known", [["true", "known"], [["true", "known"], None]])
def test_an_input_column_with_the_name_of_several_labels_is_not_the_tasks(
    known: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    made = {"v": ["best", None], "v_score": [0.9, 0.1], "v_scores": [[{"label": "best", "score": 0.9}], None]}
    footer = specs(v={"type": "classify", **TEXT})
    written(footer, v_labels=known, **made)
    assert _run(["show", "copy.parquet", "--rows", "1"]) == 0
    assert capsys.readouterr().out == "Input: a\nv: best (best 0.90)\n"
    written(footer, **made, v_labels=known)  # as a partition column, which stands behind all others
    assert _run(["show", "copy.parquet", "--rows", "1"]) == 0
    assert capsys.readouterr().out == "Input: a\nv: best (best 0.90)\n"
