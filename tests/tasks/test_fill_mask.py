"""Fill-mask against transformers' pipeline, and its columns for every kind of text."""

import dataclasses
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import SENTENCES, resolved
from torch_threads import one_thread  # noqa: F401
from transformers import AutoModelForMaskedLM, FillMaskPipeline

from secbatch.errors import JobError, ModelError
from secbatch.models.device import Compute, choose
from secbatch.models.load import load_model
from secbatch.models.resolved import ResolvedModel
from secbatch.models.shared_encoder import SharedEncoder
from secbatch.models.tokenizer_files import load_tokenizer
from secbatch.task_specs import FillMask
from secbatch.tasks.base import TaskColumns
from secbatch.tasks.fill_mask import FillMaskTask
from secbatch.tasks.mask_columns import best_entries

CPU = choose("cpu", "float32")
KINDS = ("roberta", "bert", "modernbert", "distilbert", "electra", "mpnet", "albert")
Tiny = Callable[[str], ResolvedModel]


def make_task(
    model: ResolvedModel, table: pa.Table, compute: Compute = CPU, text: str = "text", **options: Any
) -> FillMaskTask:
    spec = FillMask.model_validate({"type": "fill-mask", "model": model.name, "text": text, **options})
    return FillMaskTask("mask", spec, table.schema, SharedEncoder(model, compute))


def run(task: FillMaskTask, table: pa.Table, usable: list[bool] | None = None) -> TaskColumns:
    task.load()
    ids = pa.array([str(row) for row in range(table.num_rows)], pa.string())
    mask = pa.array(usable if usable is not None else [True] * table.num_rows, pa.bool_())
    done = task.finish(task.compute(task.encode(table, ids, mask)))
    assert list(done.columns) == [field.name for field in task.fields]
    for field in task.fields:
        column = done.columns[field.name]
        column.validate(full=True)
        assert column.type == field.type and len(column) == table.num_rows
    return done


def predict(model: ResolvedModel, texts: list[str | None], **options: Any) -> list[list[list[dict[str, Any]]]]:
    table = pa.table({"text": pa.array(texts, pa.string())})
    done = run(make_task(model, table, **options), table)
    assert done.errors == {}
    return done.columns["mask_predictions"].to_pylist()  # type: ignore[no-any-return]


def sentences_with_masks() -> list[str]:
    """Sentences of many lengths with one to three masks: at the start, inside, at the end, at punctuation."""
    generator = np.random.default_rng(7)
    texts = ["<mask>", "<mask> attack.", "An attack on <mask>", "(<mask>) and <mask>\n<mask>?", "a  <mask>b"]
    for number in range(25):
        words = " ".join(SENTENCES[number % 8 :]).split()[: int(generator.integers(3, 22))]
        for place in generator.integers(0, len(words), 1 + number % 3):
            words[place] = "<mask>"
        texts.append(" ".join(words))
    return texts


def assert_same(got: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    """Scores within 1e-5 and 1e-3 relative; tokens the same where scores are more than 1e-6 apart."""
    for mine, theirs in zip(got, wanted, strict=True):
        assert mine["score"] == pytest.approx(theirs["score"], abs=1e-5, rel=1e-3)
        if mine["token"] != theirs["token_str"].strip():
            twins = [w["token_str"].strip() for w in wanted if abs(w["score"] - theirs["score"]) <= 1e-6]
            assert mine["token"] in twins or theirs is wanted[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_stock_pipeline(tiny: Tiny, kind: str) -> None:
    model = tiny(kind)
    texts = sentences_with_masks()
    tokenizer = load_tokenizer(model).hf
    stock = AutoModelForMaskedLM.from_pretrained(model.folder)
    pipeline = FillMaskPipeline(model=stock, tokenizer=tokenizer, top_k=50)
    best, tops = [], set()
    for text, masks in zip(texts, predict(model, texts, top_k=50), strict=True):
        wanted = pipeline(text.replace("<mask>", tokenizer.mask_token))
        wanted = wanted if isinstance(wanted[0], list) else [wanted]
        assert len(masks) == text.count("<mask>")
        for got, theirs in zip(masks, wanted, strict=True):
            assert_same(got, theirs)
            best.append(got[0]["score"])
            tops.add(got[0]["token"])
    assert np.mean(best) > 0.15  # the distributions are peaked, so the comparison means something
    assert len(tops) > 3  # and it is the context that decides


@pytest.mark.parametrize("kind", KINDS)
def test_the_batch_that_a_row_falls_into_does_not_matter(tiny: Tiny, kind: str) -> None:
    table = pa.table({"text": sentences_with_masks()})
    task = make_task(tiny(kind), table, top_k=5)
    predictions = [
        run(task, table.slice(row, 1)).columns["mask_predictions"].to_pylist()[0] for row in range(table.num_rows)
    ]
    for budget in (1, 40, 150, 100_000):
        task.encoder.token_budget = budget
        together = run(task, table).columns["mask_predictions"].to_pylist()
        for one, other in zip(predictions, together, strict=True):
            for mine, theirs in zip(one, other, strict=True):
                assert_same(mine, [{"score": word["score"], "token_str": word["token"]} for word in theirs])


def test_columns_of_rows_with_nothing_to_do(tiny: Tiny) -> None:
    texts = ["A <mask> attack", None, "", " \n\t", "no mask", "A <mask> attack", "<MASK> [MASK]", "unusable <mask>"]
    table = pa.table({"text": texts})
    done = run(make_task(tiny("roberta"), table, top_k=3), table, usable=[True] * 7 + [False])
    columns = {name: column.to_pylist() for name, column in done.columns.items()}
    assert done.errors == {}
    for row in (1, 2, 3, 4, 6, 7):
        assert all(column[row] is None for column in columns.values())
    assert columns["mask_predictions"][0] == columns["mask_predictions"][5]
    assert columns["mask_truncated"][0] is False
    top = columns["mask_predictions"][0][0][0]
    assert columns["mask_top"][0] == top["token"] and columns["mask_score"][0] == pytest.approx(top["score"])
    # Twice the same text: once through the model.
    assert done.tokens == len(load_tokenizer(tiny("roberta")).encode(["A <mask> attack"])[0])


def test_an_empty_shard_and_a_shard_without_masks(tiny: Tiny) -> None:
    for texts in ([], [None, "no mask"]):
        table = pa.table({"text": pa.array(texts, pa.string())})
        done = run(make_task(tiny("bert"), table), table)
        assert done.columns["mask_top"].null_count == len(texts) and done.tokens == 0


@pytest.mark.parametrize("kind", KINDS)
def test_control_tokens_in_a_text_are_characters(tiny: Tiny, kind: str) -> None:
    hostile = "</s> <pad> [SEP] a <mask> [MASK] <s> [CLS] <|im_end|> [PAD]"
    (masks,) = predict(tiny(kind), [hostile], top_k=5)
    assert len(masks) == 1
    # What the model makes of them is what it makes of the same characters, put together by hand.
    model, tokenizer = load_model(tiny(kind), "masked-lm", CPU).model, load_tokenizer(tiny(kind))
    ids = torch.from_numpy(tokenizer.encode([hostile])[0].astype(np.int64))[None]
    assert not set(tokenizer.hf.all_special_ids) - {tokenizer.mask_id, tokenizer.hf.unk_token_id} & set(
        ids[0, 1:-1].tolist()
    )
    with torch.inference_mode():
        scores = model(input_ids=ids).logits[0, ids[0] == tokenizer.mask_id].softmax(-1)[0]
    assert masks[0][0]["score"] == pytest.approx(float(scores.max()), abs=1e-5)


def test_scripts_emoji_and_right_to_left(tiny: Tiny) -> None:
    texts = [
        "攻撃者は<mask>を盗む",
        "هجوم <mask> على الخادم",
        "🔥🔥 <mask> 👩‍💻",
        "e\u0301 <mask> \u202eabc",
        "\x00 <mask> \x1b[31m",
    ]
    for kind in KINDS:
        assert [len(masks) for masks in predict(tiny(kind), texts)] == [1] * 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_beyond_the_models_length_keeps_its_mask_and_says_so(tiny: Tiny, kind: str) -> None:
    far = "server " * 300 + "<mask>" + " server" * 300
    apart = "<mask> " + "server " * 300 + "<mask>"
    table = pa.table({"text": [far, apart, "a <mask>"]})
    columns = run(make_task(tiny(kind), table, top_k=2), table).columns
    assert columns["mask_truncated"].to_pylist() == [True, True, False]
    assert [[len(mask) for mask in masks] for masks in columns["mask_predictions"].to_pylist()] == [[2], [2, 0], [2]]
    assert columns["mask_top"].null_count == 0


@pytest.mark.parametrize("kind", KINDS)
def test_targets_rank_only_those_words_with_scores_of_the_full_softmax(tiny: Tiny, kind: str) -> None:
    model = tiny(kind)
    tokenizer = load_tokenizer(model)
    vocabulary = tokenizer.hf.get_vocab()
    spaced = [word for word in vocabulary if word.startswith("Ġ")]
    words = sorted(w.removeprefix("Ġ") for w in (spaced or vocabulary))
    words = [w for w in words if w.isalpha() and w.isascii() and len(w) > 3][:4]
    text = "Ransomware encrypts <mask> and demands payment"
    everything = {w["token"]: w["score"] for w in predict(model, [text], top_k=1000)[0][0][::-1]}
    (masks,) = predict(model, [text], top_k=3, targets=words)
    assert len(masks[0]) == 3
    scores = [word["score"] for word in masks[0]]
    assert scores == sorted(scores, reverse=True)
    with torch.inference_mode():
        ids = torch.from_numpy(tokenizer.encode([text])[0].astype(np.int64))[None]
        logits = load_model(model, "masked-lm", CPU).model(input_ids=ids).logits[0, ids[0] == tokenizer.mask_id]
    probabilities = logits.softmax(-1)[0]
    for word in masks[0]:
        entry = vocabulary.get(f"Ġ{word['token']}", vocabulary.get(word["token"]))
        # float32 rounding of logits that are sharpened 30 times
        assert word["score"] == pytest.approx(float(probabilities[entry]), abs=1e-6, rel=1e-5)
        assert word["token"] in words and word["token"] in everything


def test_a_target_is_the_form_with_the_space_before_it(tiny: Tiny) -> None:
    task = make_task(tiny("roberta"), pa.table({"text": ["x"]}), targets=["attack", " attack "])
    assert task._targets is not None
    assert load_tokenizer(tiny("roberta")).hf.convert_ids_to_tokens(task._targets.tolist()) == ["Ġattack"]


def test_targets_of_several_pieces_are_refused_with_their_pieces(tiny: Tiny) -> None:
    table = pa.table({"text": ["x"]})
    with pytest.raises(JobError) as caught:
        make_task(tiny("roberta"), table, targets=["attack", "zebra", " "])
    sentence = str(caught.value)
    assert sentence.startswith("tasks.mask.targets: only words that are single entries of the vocabulary of roberta")
    assert "'zebra' (" in sentence and " | " in sentence and "' ' (empty)" in sentence
    assert "'attack'" not in sentence
    with pytest.raises(JobError, match=r"'☃' \(unknown to it\)"):
        make_task(tiny("bert"), table, targets=["☃"])
    with pytest.raises(JobError, match=r"'<mask>' \(the mask itself\)"):
        make_task(tiny("bert"), table, targets=["<mask>"])
    with pytest.raises(JobError, match=r"tasks\.mask\.targets is empty"):
        make_task(tiny("bert"), table, targets=[])


def test_words_that_look_the_same_are_added_for_the_top_and_kept_apart_in_the_predictions(tiny: Tiny) -> None:
    tokenizer = load_tokenizer(tiny("roberta"))
    vocabulary = tokenizer.hf.get_vocab()
    bare = next(w for w in vocabulary if w.isalpha() and w.isascii() and len(w) > 1 and f"Ġ{w}" in vocabulary)
    one, other = vocabulary[bare], vocabulary[f"Ġ{bare}"]
    third, fourth = [token for token in range(10, 40) if token not in (one, other)][:2]
    ids = np.array([[third, one, other], [third, one, fourth], [one, third, other]], np.int32)
    scores = np.array([[0.4, 0.3, 0.25], [0.4, 0.3, 0.25], [0.5, 0.3, 0.1]], np.float32)
    best, totals = best_entries(ids, scores, tokenizer)
    assert tokenizer.words(best).tolist() == [bare, tokenizer.words(np.array([third]))[0], bare]
    assert totals.tolist() == pytest.approx([0.55, 0.4, 0.6])


def test_templates_ask_of_sentences_without_a_mask(tiny: Tiny) -> None:
    table = pa.table({"sentence": ["Phishing steals passwords.", None], "n": [1, 2]})
    task = make_task(tiny("bert"), table, text="{sentence} Attack {n} was <mask>.", top_k=2)
    assert task.reads == ("sentence", "n")
    columns = run(task, table).columns
    assert columns["mask_top"].to_pylist()[1] is None and columns["mask_top"].to_pylist()[0]
    written_out = predict(tiny("bert"), ["Phishing steals passwords. Attack 1 was <mask>."], top_k=2)
    assert columns["mask_predictions"].to_pylist()[0] == written_out[0]


def test_the_fingerprint_follows_what_decides_results(tiny: Tiny) -> None:
    model, table = tiny("roberta"), pa.table({"text": ["x"], "other": ["y"]})
    fingerprint = make_task(model, table).fingerprint()
    assert fingerprint == make_task(model, table).fingerprint()
    others = [
        make_task(model, table, top_k=3),
        make_task(model, table, text="other"),
        make_task(model, table, targets=["attack"]),
        make_task(model, table, compute=replace(CPU, dtype="bfloat16")),
        make_task(replace(model, weights_hash="0"), table),
        make_task(replace(model, tokenizer_hash="0"), table),
        make_task(replace(model, hub_id="a/b", revision="c"), table),
    ]
    prints = [task.fingerprint() for task in others]
    assert len({fingerprint, *prints}) == 1 + len(others)


def test_it_pickles(tiny: Tiny) -> None:
    table = pa.table({"text": ["A <mask> attack"]})
    task = make_task(tiny("modernbert"), table)
    copy = pickle.loads(pickle.dumps(task))
    assert run(copy, table).columns == run(task, table).columns


def test_a_model_without_a_mask(tiny: Tiny) -> None:
    with pytest.raises(ModelError, match="llama_chat has no mask token"):
        make_task(tiny("llama_chat"), pa.table({"text": ["x"]}))


def test_weights_that_are_no_numbers_are_errors_of_the_rows(tiny: Tiny, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny("roberta").folder, tmp_path / "broken"))
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.layer_norm.bias"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    table = pa.table({"text": ["A <mask> attack", "no mask", "A <mask> attack"]})
    done = run(make_task(resolved(folder, "broken"), table), table)
    assert sorted(done.errors) == [0, 2]
    assert "model broken gave scores that are no numbers" in done.errors[0]
    assert done.columns["mask_predictions"].null_count == 3


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_agrees_with_float32_on_what_is_clear(tiny: Tiny, kind: str) -> None:
    texts = sentences_with_masks()
    exact = predict(tiny(kind), texts, top_k=2)
    rough = predict(tiny(kind), texts, top_k=2, compute=dataclasses.replace(CPU, dtype="bfloat16"))
    clear = [
        (mine[0], theirs[0])
        for one, other in zip(exact, rough, strict=True)
        for mine, theirs in zip(one, other, strict=True)
        if mine[0]["score"] > 3 * mine[1]["score"]
    ]
    assert len(clear) >= 3
    assert sum(mine["token"] == theirs["token"] for mine, theirs in clear) / len(clear) > 0.9
