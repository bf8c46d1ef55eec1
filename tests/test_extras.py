"""What is missing where an extra is not installed is one sentence, before any work."""

import re
import sys
from pathlib import Path

import pytest
import yaml

from secbatch.cli.main import _run
from secbatch.errors import EXIT_FAILURE, EXIT_USAGE, JobError
from secbatch.extras import check_extra

TRAINING = {
    "name": "topics",
    "objective": "classify",
    "model": "builtin/mlm",
    "data": {"train": "in.csv", "text": "text", "label": "label"},
    "output": "model",
}
CHAT = {"type": "chat", "model": "m", "text": "text", "endpoint": "http://127.0.0.1:9/v1"}
JOB = {"name": "job", "input": {"path": "in.csv"}, "tasks": {"answer": CHAT}, "output": {"path": "out"}}
MEASURED = ["evaluate", "builtin/mlm", "--data", "in.csv", "--text", "text", "--label", "label"]


@pytest.mark.parametrize(
    ("arguments", "module", "said", "code"),
    [
        (
            ["run", "job.yaml"],
            "httpx2",
            "httpx2; install it with `pip install 'secbatch[endpoint]'`",
            EXIT_FAILURE,
        ),
        (["finetune", "train.yaml"], "sklearn", "A training needs scikit-learn; install it with `pip", EXIT_USAGE),
        (
            ["finetune", "train.yaml", "--set", "hyperparameters.lora={}", "--dry-run"],
            "peft",
            "hyperparameters.lora needs peft; install it with `pip install 'secbatch[lora]'`",
            EXIT_USAGE,
        ),
        ([*MEASURED, "--objective", "classify"], "sklearn", "classify needs scikit-learn; install it with", EXIT_USAGE),
        (
            [*MEASURED, "--objective", "fill-mask", "--plot", "x.png"],
            "matplotlib",
            "--plot needs matplotlib; install it with `pip install 'secbatch[finetune]'`",
            EXIT_USAGE,
        ),
    ],
)
def test_a_missing_extra(
    arguments: list[str],
    module: str,
    said: str,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.csv").write_text("text,label\nan attack,a\nanother,b\n")
    Path("train.yaml").write_text(yaml.safe_dump(TRAINING))
    Path("job.yaml").write_text(yaml.safe_dump(JOB))
    monkeypatch.setitem(sys.modules, module, None)
    assert _run(arguments) == code
    assert said in capsys.readouterr().err
    assert not Path("out").exists() and not Path("model").exists()


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        (["absent_a"], "It needs absent_a; install it with `pip install 'secbatch[lora]'`"),
        (["absent_a", "absent_b"], "It needs absent_a and absent_b; install them with `pip install 'secbatch[lora]'`"),
        (["absent_a", "sys", "absent_b", "absent_c"], "It needs absent_a, absent_b and absent_c; install them with `"),
    ],
)
def test_what_is_missing_is_named(modules: list[str], said: str) -> None:
    with pytest.raises(JobError, match=re.escape(said)):
        check_extra("It", modules, "lora")
