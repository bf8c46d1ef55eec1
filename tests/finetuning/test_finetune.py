"""Every objective from a file to a model folder that plain transformers opens, with the same predictions."""

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file
from small_jobs import MALWARE, classification_file, conll_file, job, pairs_file, questions_file, texts_file
from tiny_models import make_fine_tuned, make_t5

import secbatch
from secbatch.cli.main import _run as run_command
from secbatch.errors import InputError, JobError, ModelError, OutputHeldError
from secbatch.finetune_job import Lora
from secbatch.finetuning.adapters import Adapters
from secbatch.finetuning.finetune import finetune
from secbatch.finetuning.planning import plan_finetune
from secbatch.labelled.files import LabelledFiles
from secbatch.labelled.readers import read_classification
from secbatch.labelled.splitting import split
from secbatch.models.resolved import ResolvedModel
from secbatch.store.lock import hold

Tiny = Callable[[str], ResolvedModel]


def model_files(folder: Path) -> list[str]:
    names: list[str] = json.loads((folder / "training.json").read_text())["files"]
    return names


def opened(folder: Path, auto_class: str) -> tuple[Any, Any]:
    model = getattr(transformers, auto_class).from_pretrained(folder).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("base", ["roberta", "bert", "distilbert"])
def test_classify(base: str, tiny: Tiny, tmp_path: Path) -> None:
    data = classification_file(tmp_path / "a.csv")
    done = finetune(job("classify", tiny(base).folder, data, tmp_path / "out"))
    assert float("1e-310") * 2.0 > 0  # subnormal numbers are no zeros to the caller, whatever the training had
    record = json.loads((done.folder / "training.json").read_text())
    assert done.trained and record == done.record and record["labels"] == ["malware", "tool"]
    assert record["data"]["train"]["groups"] + record["data"]["dev"]["groups"] == 12
    model, tokenizer = opened(done.folder, "AutoModelForSequenceClassification")
    assert model.config.id2label == {0: "malware", 1: "tool"}
    assert model.config.problem_type == "single_label_classification"
    # What plain transformers predicts gives the accuracy that the record tells.
    examples = read_classification(LabelledFiles(data["train"]), "text", "label", group="doc").examples
    _, dev = split(examples, 0.25, 0)
    right = 0
    for example in dev:
        with torch.no_grad():
            logits = model(**tokenizer(example.text, return_tensors="pt")).logits[0]
        right += model.config.id2label[int(logits.argmax())] == example.labels[0]
    assert right / len(dev) == pytest.approx(done.metrics["dev"]["accuracy"])
    card = (done.folder / "README.md").read_text()
    assert record["data"]["train"]["files"][0]["sha256"] in card and "| `malware` |" in card
    assert (done.folder / "training_curve.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(entry.name for entry in (done.folder / "_training").iterdir()) == ["lock"]


@pytest.mark.usefixtures("without_curve")
def test_classify_learns_and_a_second_run_does_nothing(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = job("classify", tiny("bert").folder, classification_file(tmp_path / "a.csv"), tmp_path / "out", epochs=6)
    first = finetune(spec)
    assert first.metrics["dev"]["accuracy"] > 0.9
    stamp = (first.folder / "model.safetensors").stat().st_mtime_ns
    left = first.folder / "_training" / "checkpoints" / "checkpoint-000000009-00001"  # by a kill behind the record
    left.mkdir(parents=True)
    again = finetune(spec)
    assert not again.trained and again.record == first.record and not left.exists()
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_none=True)))
    assert run_command(["finetune", str(path)]) == 0
    said = "".join(capsys.readouterr())
    assert "Nothing to do  this training was finished" in said and "Best epoch" not in said
    assert (first.folder / "model.safetensors").stat().st_mtime_ns == stamp
    other = spec.model_copy(update={"hyperparameters": spec.hyperparameters.model_copy(update={"seed": 1})})
    for attempt in (plan_finetune, finetune):
        with pytest.raises(JobError, match=r"holds a model of another training .* --overwrite"):
            attempt(other)  # type: ignore[operator]
    assert plan_finetune(spec).epochs == plan_finetune(other, overwrite=True).epochs == 6
    (first.folder / "notes.txt").write_text("mine")
    assert finetune(other, overwrite=True).record["hyperparameters"]["seed"] == 1
    assert (first.folder / "notes.txt").read_text() == "mine"
    assert {file.name for file in first.folder.iterdir() if file.is_file()} == {*model_files(first.folder), "notes.txt"}
    # A finished classifier as the base: its head goes on for the same labels, and is made anew for others.
    data = classification_file(tmp_path / "a.csv")
    further = finetune(job("classify", first.folder, data, tmp_path / "on", epochs=1))
    assert further.record["base_on_dev"]["accuracy"] > 0.9
    numbered = (tmp_path / "a.csv").read_text().replace(",malware,", ",10,").replace(",tool,", ",9,")
    (tmp_path / "n.csv").write_text(numbered)
    data["train"] = str(tmp_path / "n.csv")
    anew = finetune(job("classify", first.folder, data, tmp_path / "anew", epochs=1))
    assert anew.record["base_on_dev"] is None and anew.record["labels"] == ["9", "10"]
    assert any(
        "has a head for other labels" in one
        for one in plan_finetune(job("classify", first.folder, data, tmp_path / "anew2")).notices
    )
    data |= {"train": str(tmp_path / "a.csv"), "labels": ["tool", "malware"]}
    assert any(
        "head for these labels in another order" in one
        for one in plan_finetune(job("classify", first.folder, data, tmp_path / "anew2")).notices
    )
    with hold(first.folder / "_training" / "lock"), pytest.raises(OutputHeldError, match="Another run holds output"):
        finetune(spec)


def test_a_dry_run_says_what_would_be_trained(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = job("classify", tiny("bert").folder, classification_file(tmp_path / "a.csv"), tmp_path / "out")
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_none=True)))
    assert run_command(["finetune", str(path), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "36 train · 12 dev" in said and "2: malware 18, tool 18" in said and "epochs at most" in said
    assert run_command(["finetune", str(path), "--dry-run", "--output", str(path / "out")]) == 1
    assert "cannot be written: Not a directory" in capsys.readouterr().err
    monkeypatch.setattr("os.access", lambda place, mode: False)  # whoever runs the tests may write anywhere
    assert run_command(["finetune", str(path), "--dry-run"]) == 1
    assert "is not writable (Permission denied); choose another or mend its rights" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("without_curve")
def test_very_long_labels_are_shown_by_their_beginning(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "x" * 10_000
    rows = [f"{MALWARE[number % 6]} was seen {number} times,{long if number % 3 else 'tool'}" for number in range(30)]
    (tmp_path / "a.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    (tmp_path / "b.csv").write_text(f"text,label\nnmap,tool\ncurl,{long}y\n")
    data = {"train": str(tmp_path / "a.csv"), "text": "text", "label": "label"}
    spec = job("classify", tiny("bert").folder, data, tmp_path / "out", epochs=1)
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_none=True)))
    assert run_command(["finetune", str(path), "--dry-run"]) == 0
    assert run_command(["finetune", str(path), "--dry-run", "--set", f"data.dev={tmp_path / 'b.csv'}"]) == 2
    labelled = ["--objective", "classify", "--text", "text", "--label", "label", "--samples", "0"]
    folder = str(finetune(spec).folder)
    assert run_command(["evaluate", folder, "--data", data["train"], *labelled]) == 0
    assert run_command(["evaluate", folder, "--data", str(tmp_path / "b.csv"), *labelled]) == 2
    said = "".join(capsys.readouterr())
    assert "is not known to the training files" in said and f"is not known to {folder}" in said
    assert said.count("x" * 50) > 4 and "x" * 110 not in said.replace("\n", "")


@pytest.mark.usefixtures("without_curve")
def test_multi_label(tiny: Tiny, tmp_path: Path) -> None:
    data = classification_file(tmp_path / "a.csv", multi=True)
    done = finetune(job("classify", tiny("roberta").folder, data, tmp_path / "out", class_weights="sqrt"))
    model, _ = opened(done.folder, "AutoModelForSequenceClassification")
    assert model.config.problem_type == "multi_label_classification"
    assert done.record["labels"] == ["bad", "malware", "tool"]


@pytest.mark.usefixtures("without_curve")
def test_ner_with_windows_weights_and_accumulation(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nervaluate", None)  # its figures cost more than an epoch, and are for `evaluate`
    long = "\n".join(f"word{i}\tO" for i in range(80)) + "\nEmotet\tB-Malware\n\n"
    train = conll_file(tmp_path / "train.txt")
    Path(train).write_text(Path(train).read_text() + long)
    data = {"train": train, "dev": conll_file(tmp_path / "dev.txt", 9)}
    spec = job("ner", tiny("roberta").folder, data, tmp_path / "out", epochs=12, class_weights="sqrt",
               gradient_accumulation=2, learning_rate=2e-3, dropout=0.0)  # fmt: skip
    done = finetune(spec)
    assert done.record["data"]["train"]["sequences"] > done.record["data"]["train"]["rows"] == 41
    assert done.metrics["dev"]["f1"] > 0.9
    model, tokenizer = opened(done.folder, "AutoModelForTokenClassification")
    assert model.config.id2label[0] == "O" and set(model.config.label2id) == {
        "O", "B-Malware", "I-Malware", "B-Tool", "I-Tool"
    }  # fmt: skip
    tagger = transformers.pipeline("token-classification", model=model, tokenizer=tokenizer, device="cpu")
    words = tagger("Ryuk 3.exe runs curl .", aggregation_strategy="simple")
    assert {(word["start"], word["entity_group"]) for word in words} >= {(0, "Malware"), (16, "Tool")}


@pytest.mark.usefixtures("without_curve")
def test_questions(tiny: Tiny, tmp_path: Path) -> None:
    data = questions_file(tmp_path / "q.jsonl")
    with (tmp_path / "q.jsonl").open("a") as file:
        for number in range(9):
            long = f"{number} {'Nothing else ' * 30}."
            file.write(json.dumps({"question": "What then?", "context": long, "answer": long}) + "\n")
    spec = job("qa", tiny("bert").folder, data, tmp_path / "out", epochs=3, max_length=64)
    assert any("training answers have more than 30 tokens" in one for one in plan_finetune(spec).notices)
    done = secbatch.finetune(spec)
    assert 0 <= done.metrics["dev"]["exact"] <= done.metrics["dev"]["f1"] <= 1
    assert opened(done.folder, "AutoModelForQuestionAnswering")[0].config.num_labels == 2


@pytest.mark.usefixtures("without_curve")
@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_questions_from_a_base_that_was_a_classifier(kind: str, tmp_path: Path) -> None:
    base = make_fine_tuned(tmp_path / "base", kind, "SequenceClassification", num_labels=3)
    done = finetune(job("qa", base, questions_file(tmp_path / "q.jsonl"), tmp_path / "out", epochs=1))
    assert done.record["base_on_dev"] is None  # its head is made anew
    model = opened(done.folder, "AutoModelForQuestionAnswering")[0]
    assert model.config.num_labels == 2 and model.qa_outputs.out_features == 2


@pytest.mark.usefixtures("without_curve")
def test_masked_lm_falls_in_perplexity(tiny: Tiny, tmp_path: Path) -> None:
    done = finetune(job("masked-lm", tiny("roberta").folder, texts_file(tmp_path / "t.csv"), tmp_path / "out"))
    assert done.metrics["dev"]["perplexity"] < done.record["base_on_dev"]["perplexity"]
    assert "it became better" in (done.folder / "README.md").read_text()
    opened(done.folder, "AutoModelForMaskedLM")
    # The next model's card knows where its base came from.
    data = classification_file(tmp_path / "a.csv")
    base = {"base": str(done.folder), "compare": str(tiny("roberta").folder)}
    spec = job("classify", base, data, tmp_path / "second", epochs=1)
    lost = base | {"compare": str(tmp_path / "no-model")}
    with pytest.raises(ModelError, match="there is no model folder"):
        plan_finetune(job("classify", lost, data, tmp_path / "second", epochs=1))
    second = finetune(spec)
    alone = finetune(job("classify", tiny("roberta").folder, data, tmp_path / "alone", epochs=1))
    assert second.record["compared"]["metrics"] == alone.metrics
    assert not finetune(spec).trained and not (second.folder / "_training" / "compared").exists()
    assert second.record["base"]["trained"]["objective"] == "masked-lm"
    card = (second.folder / "README.md").read_text()
    assert "trained further (`small`, objective `masked-lm`, perplexity on" in card
    assert "The same training from " in card and "better for the task" in card


@pytest.mark.usefixtures("without_curve")
def test_pairs(tiny: Tiny, tmp_path: Path) -> None:
    spec = job("seq2seq", tiny("blenderbot").folder, pairs_file(tmp_path / "p.csv"), tmp_path / "out")
    done = finetune(spec)
    assert done.metrics["dev"]["loss"] < done.record["base_on_dev"]["loss"]
    opened(done.folder, "AutoModelForSeq2SeqLM")


def test_sources_and_targets_that_are_cut_are_told(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("long,short\n" + "".join(f"a b c {n},x y {'z ' * 40}\n" for n in range(20)))
    data = {"train": str(tmp_path / "p.csv"), "source": "{long}", "target": "short"}
    notices = plan_finetune(job("seq2seq", tiny("blenderbot").folder, data, tmp_path / "out")).notices
    assert "17 of the 17 training targets reach 40 tokens, beyond which they are cut" in notices
    assert not any("training sources" in notice for notice in notices)


@pytest.mark.usefixtures("without_curve")
def test_lora_gives_a_plain_folder(tiny: Tiny, tmp_path: Path) -> None:
    base = tiny("roberta").folder
    data = classification_file(tmp_path / "a.csv")
    done = finetune(job("classify", base, data, tmp_path / "out", lora={"rank": 4, "dropout": 0.1}))
    before, after = load_file(base / "model.safetensors"), load_file(done.folder / "model.safetensors")
    assert not any("lora" in name for name in after)
    query = "roberta.encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(before[query], after[query])
    words = "roberta.embeddings.word_embeddings.weight"
    assert torch.equal(before[words], after[words])
    model, _ = opened(done.folder, "AutoModelForSequenceClassification")
    assert torch.linalg.matrix_rank(after[query] - before[query]) <= 4
    assert model.classifier.dense.weight.abs().sum() > 0


def test_lora_trains_a_new_pooler_as_part_of_the_head(tiny: Tiny) -> None:
    config = json.loads((tiny("bert").folder / "config.json").read_text())
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**config))
    Adapters(model, Lora(rank=2))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {"bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight"} <= trained
    assert all("lora_" in name or "pooler" in name or name.startswith("classifier") for name in trained)


@pytest.mark.usefixtures("without_curve")
def test_lora_of_a_model_without_a_base_of_its_own(tmp_path: Path) -> None:
    base = make_t5(tmp_path / "t5")
    pairs = pairs_file(tmp_path / "p.csv")
    done = finetune(job("seq2seq", base, pairs, tmp_path / "out", lora={"rank": 2}, epochs=1))
    before, after = load_file(base / "model.safetensors"), load_file(done.folder / "model.safetensors")
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed and all(".layer." in name for name in changed) and before.keys() == after.keys()
    opened(done.folder, "AutoModelForSeq2SeqLM")


def test_bad_data_and_bases_are_told_before_anything_is_learned(tiny: Tiny, tmp_path: Path) -> None:
    base, out = tiny("bert").folder, tmp_path / "out"
    data = classification_file(tmp_path / "a.csv")

    def failing(error: type[Exception], sentence: str, change: dict[str, Any], folder: Path = base) -> None:
        with pytest.raises(error, match=sentence):
            finetune(job("classify", folder, {**data, **change}, out))

    (tmp_path / "dev.csv").write_text("text,label,doc\nx,malware,doc0\n")
    failing(InputError, "group 'doc0' stands in train .* and in dev", {"dev": str(tmp_path / "dev.csv")})
    (tmp_path / "dev.csv").write_text("text,label,doc\nx,malwar,doc99\n")
    failing(
        InputError, "label 'malwar' .*dev.csv row 1. is not known to the training", {"dev": str(tmp_path / "dev.csv")}
    )
    (tmp_path / "dev.csv").write_text("text,label,doc\n")
    failing(InputError, "dev.csv holds no rows", {"dev": str(tmp_path / "dev.csv")})
    (tmp_path / "dev.jsonl").write_text('{"text": "x", "label": ["malware", "tool"], "doc": "d9"}\n')
    failing(InputError, "dev.jsonl row 1 has 2 labels, while each row of .*a.csv", {"dev": str(tmp_path / "dev.jsonl")})
    (tmp_path / "b.csv").write_text(Path(data["train"]).read_text() + "odd,rare,doc9\n")
    failing(InputError, "label 'rare' has a single example .*b.csv row 49", {"train": str(tmp_path / "b.csv")})
    failing(
        InputError,
        "label 'tool' .*a.csv row 2. is not known to data.labels; known are malware",
        {"labels": ["malware"]},
    )
    (tmp_path / "one.csv").write_text("text,label,doc\n" + "".join(f"t{n},malware,doc{n}\n" for n in range(9)))
    failing(InputError, "one.csv: every example has the label 'malware'", {"train": str(tmp_path / "one.csv")})
    failing(ModelError, "no config.json", {}, tmp_path)
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((base / name).read_bytes())
    failing(ModelError, "no tokenizer", {}, bare)
    failing(ModelError, "of which there is no AutoModelForSequenceClassification", {}, tiny("blenderbot").folder)
    assert not (out / "training.json").exists()
    with pytest.raises(JobError, match="holds files that are not of a training"):
        finetune(job("classify", base, data, tmp_path))


def test_texts_and_questions_that_nothing_can_be_learned_from(tiny: Tiny, tmp_path: Path) -> None:
    base, path = tiny("bert").folder, tmp_path / "a.jsonl"
    path.write_text(
        "".join(json.dumps({"question": "Who?", "context": f"c {n}", "answer": None}) + "\n" for n in range(9))
    )
    with pytest.raises(InputError, match=r"a\.jsonl: no question has an answer, so there is nothing to learn"):
        plan_finetune(job("qa", base, {"train": str(path)}, tmp_path / "out"))
    for name, rows in (("long.csv", "Emotet drops nmap and curl"), ("short.csv", "a b")):
        (tmp_path / name).write_text("text\n" + "".join(f"{rows} {n}\n" for n in range(9)))
    train, short = str(tmp_path / "long.csv"), str(tmp_path / "short.csv")
    with pytest.raises(InputError, match=r"short\.csv \(dev\): no text has 4 tokens to learn from; write longer"):
        plan_finetune(job("masked-lm", base, {"train": train, "dev": short, "text": "text"}, tmp_path / "out"))


@pytest.mark.usefixtures("without_curve")
def test_a_caller_gets_its_threads_back(tiny: Tiny, tmp_path: Path, more_threads: int) -> None:
    wanted = job("classify", tiny("bert").folder, classification_file(tmp_path / "a.csv"), tmp_path / "out")
    assert plan_finetune(wanted).device == "CPU (1 thread)" and torch.get_num_threads() == more_threads
    finetune(wanted)
    assert torch.get_num_threads() == more_threads


@pytest.mark.usefixtures("without_curve")
@pytest.mark.parametrize("around", ["no_grad", "inference_mode", "autocast", "flush_denormal"])
def test_a_training_is_the_same_whatever_its_caller_has_set(tiny: Tiny, tmp_path: Path, around: str) -> None:
    data, base = classification_file(tmp_path / "a.csv"), tiny("bert").folder
    alone = finetune(job("classify", base, data, tmp_path / "alone")).record
    wanted = job("classify", base, data, tmp_path / "out")
    settings = {
        "no_grad": torch.no_grad,
        "inference_mode": torch.inference_mode,
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
        "flush_denormal": nullcontext,
    }
    torch.set_flush_denormal(around == "flush_denormal")
    try:
        with settings[around]():
            within = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
            plan_finetune(wanted)
            record = finetune(wanted).record
            after = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
            assert within == after and (float("1e-310") * 2.0 == 0) == (around == "flush_denormal")
    finally:
        torch.set_flush_denormal(False)
    assert (record["weights_hash"], record["metrics"]) == (alone["weights_hash"], alone["metrics"])


@pytest.mark.usefixtures("without_curve")
def test_a_caller_s_random_numbers_go_on(tiny: Tiny, tmp_path: Path) -> None:
    wanted = job("classify", tiny("bert").folder, classification_file(tmp_path / "a.csv"), tmp_path / "out")
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    plan_finetune(wanted)
    finetune(wanted)
    assert torch.equal(torch.rand(3), expected)


def test_contradictions_are_told_before_anything_is_learned(tiny: Tiny, tmp_path: Path) -> None:
    data = classification_file(tmp_path / "a.csv")
    with (tmp_path / "a.csv").open("a") as file:
        file.write("Emotet was seen,malware,doc1\nEmotet was seen,tool,doc1\n")
    notices = plan_finetune(job("classify", tiny("bert").folder, data, tmp_path / "out")).notices
    assert any("a.csv row 49 and as 'tool' in" in notice for notice in notices)
