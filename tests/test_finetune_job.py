"""The job file of `secbatch finetune`: what it takes, and one sentence for what it does not."""

import re
from pathlib import Path

import pytest

from secbatch.errors import JobError
from secbatch.finetune_job import (
    METRICS,
    Averaging,
    Base,
    Data,
    EarlyStopping,
    FinetuneJob,
    Hyperparameters,
    Lora,
    Masking,
)
from secbatch.finetune_jobfile import load_finetune_job

GOOD = """name: topics
objective: classify
model: builtin/mlm
data: {train: a.csv, text: text, label: label}
output: models/topics
"""


def load(tmp_path: Path, text: str, *overrides: str) -> FinetuneJob:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return load_finetune_job(str(path), overrides)


def test_a_small_job_has_defaults_and_overrides_apply(tmp_path: Path) -> None:
    job = load(tmp_path, GOOD, "hyperparameters.learning_rate=1", "hyperparameters.lora.rank=4")
    assert job.model.base == "builtin/mlm" and job.metric == "f1_micro"
    assert job.hyperparameters.learning_rate == 1.0
    assert job.hyperparameters.lora and job.hyperparameters.lora.rank == 4


def test_a_delimiter_may_be_named_tab_as_in_other_jobs(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD.replace("label: label", "label: label, delimiter: tab")).data.delimiter == "\t"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("label: label", "lable: label", r"line 4: unknown key 'data\.lable' \(did you mean 'label'\?\)"),
        ("output:", "hyperparameters: {lerning_rate: 1}\noutput:", "did you mean 'learning_rate'"),
        ("output:", "hyperparameters: {lora: {rnk: 1}}\noutput:", "'hyperparameters.lora.rnk' .did you mean 'rank'"),
        ("output:", "hyperparameters: {learning_rate: fast}\noutput:", "line 5: 'hyperparameters.learning_rate' is"),
        ("train: a.csv", 'train: "a\\0b"', r"line 4: 'data\.train' is wrong: it must not hold a NUL character"),
        ("train: a.csv", "train: a.csv, dev: ' '", r"line 4: 'data\.dev' is wrong: it is empty; name a place"),
        ("output: models/topics", "output: ' '", "line 5: 'output' is wrong: it is empty"),
        ("output:", "hyperparameters: {epochs: 1000000}\noutput:", "must be less than or equal to 10000"),
        ("output:", "hyperparameters: {learning_rate: yes}\noutput:", "must be a number .given: true"),
        ("output:", "hyperparameters: {learning_rate: .inf}\noutput:", "'hyperparameters.learning_rate' is wrong"),
        ("output:", "hyperparameters: {weight_decay: .inf}\noutput:", "'hyperparameters.weight_decay' is wrong"),
        (
            "output:",
            "hyperparameters: {subwords: first}\noutput:",
            r"line 5: 'hyperparameters\.subwords' has no meaning",
        ),
        (
            "output:",
            "hyperparameters: {masking: {rate: 0.3}}\noutput:",
            r"masking' has no meaning for objective: class",
        ),
        ("objective: classify", "objective: classfy", r"line 2: 'objective' is wrong: .*'classify'"),
        ("objective: classify", "objective: qa", r"line 4: 'data\.text' has no meaning for objective: qa"),
        (", label: label", "", r"line 4: 'data\.label' is missing; objective: classify needs it"),
        ("output: models/topics", "", "'output' is missing"),
        ("output:", "hyperparameters: {early_stopping: {metric: bleu}}\noutput:", "must be one of f1_micro"),
        ("output:", f"hyperparameters: {{seed: {1 << 63}}}\noutput:", "line 5: .hyperparameters.seed. is wrong"),
        ("label: label", "label: label, labels: []", "line 4: 'data.labels' is wrong: it must not be empty"),
        ("output: models/topics", "output: ''", "line 5: 'output' is wrong: it must not be empty"),
        ("output:", "hyperparameters: {masking: {replaced: 0.6, kept: 0.5}}\noutput:", "add up to 1 at most"),
        ("model: builtin/mlm", 'model: "a\\0b"', "line 3: .model.base. is wrong: it must not hold a NUL character"),
        ("label: label", "label: label, delimiter: ';;'", "line 4: 'data.delimiter' is wrong: delimiter must be one"),
    ],
)
def test_one_sentence_for_what_is_wrong(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    with pytest.raises(JobError, match=sentence):
        load(tmp_path, GOOD.replace(old, new))
    with pytest.raises(JobError, match="must be a mapping with name, objective, model, data and output"):
        load(tmp_path, "- a")


def test_a_default_that_has_no_meaning_may_be_written_out(tmp_path: Path) -> None:
    written = "hyperparameters: {subwords: all, class_weights: none, label_smoothing: 0, epochs: 1}"
    adapting = GOOD.replace("classify", "masked-lm").replace(", label: label", "")
    assert load(tmp_path, adapting + written).hyperparameters.epochs == 1
    with pytest.raises(JobError, match=r"'hyperparameters\.label_smoothing' has no meaning for objective: masked-lm"):
        load(tmp_path, adapting + written.replace("smoothing: 0", "smoothing: 0.1"))


def test_the_docs_name_every_key() -> None:
    text = (Path(__file__).parents[1] / "docs/finetune.md").read_text(encoding="utf-8")
    for model in (FinetuneJob, Base, Data, Hyperparameters, Masking, Lora, EarlyStopping, Averaging):
        for key in model.model_fields:
            assert re.search(rf"\b{key}\b", text), f"{model.__name__}.{key}"
    for metrics in METRICS.values():
        assert all(f"`{metric}`" in text for metric in metrics)
