"""Batches, their order, windows over long texts, and masks."""

import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_models import bert_tokenizer, make_bert, make_fine_tuned, make_roberta, resolved, with_token_types
from tokenizers.processors import TemplateProcessing

from secbatch.finetune_job import Masking
from secbatch.finetuning.batches import parts_of, plan_evaluation, plan_training
from secbatch.finetuning.items import Batch, Item
from secbatch.finetuning.masked_words import MaskedWords
from secbatch.finetuning.ner import IGNORED, Ner, windows
from secbatch.finetuning.questions import LONGEST_ANSWER, Questions, best_span
from secbatch.labelled.examples import Answer, Place, QuestionExample, Span, TextExample, TokenExample
from secbatch.models.configuration import load_config
from secbatch.models.pairs import PairFrame
from secbatch.models.resolved import ResolvedModel
from secbatch.models.tokenizer_files import load_tokenizer

PLACE = Place("a", 1)
Tiny = Callable[[str], ResolvedModel]


def test_plans_hold_every_item_once_an_epoch_within_the_budget() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, 3000)
    plan = plan_training(lengths, 512, 2, seed=5)
    for epoch in plan.epochs:
        assert sorted(np.concatenate(epoch)) == list(range(3000))
        assert all(lengths[batch].sum() <= 512 for batch in epoch)
        # Batches of one length: nothing would be lost even to padding.
        padded = sum(lengths[batch].max() * len(batch) for batch in epoch)
        assert lengths.sum() / padded > 0.9
    again = plan_training(lengths, 512, 2, seed=5)
    assert all(np.array_equal(a, b) for a, b in zip(plan.epochs[1], again.epochs[1], strict=True))
    assert plan.steps == sum(map(len, plan.epochs))
    assert not np.array_equal(plan.epochs[0][0], plan.epochs[1][0])


def test_an_item_longer_than_the_budget_is_a_batch_of_its_own() -> None:
    assert [batch.tolist() for batch in plan_evaluation(np.array([4, 100, 5]), 16)] == [[1], [2, 0]]
    assert [part.tolist() for part in parts_of(np.arange(5), 2)] == [[0, 1, 2], [3, 4]]
    assert [batch.tolist() for batch in plan_evaluation(np.array([8, 8, 8]), 16)] == [[0, 1], [2]]  # the budget is full
    assert len(parts_of(np.arange(1), 4)) == 1


@pytest.mark.parametrize("tokens", [1, 10, 11, 23, 100])
def test_every_token_is_one_windows_own(tokens: int) -> None:
    own = [place for start, stop, first, last in windows(tokens, 10) for place in range(first, last)]
    assert own == list(range(tokens))
    for start, stop, first, last in windows(tokens, 10):
        assert stop - start <= 10 and start <= first < last <= stop


@pytest.mark.parametrize("base", ["bert", "roberta"])
def test_tags_of_tokens(base: str, tiny: Tiny) -> None:
    tokenizer = load_tokenizer(tiny(base))
    text = "Ransomware evil.dll </s> 北京"
    words = ((0, 10), (11, 19), (20, 24), (25, 27))
    example = TokenExample(text, words, (Span(11, 19, "File"), Span(25, 27, "Place")), None, PLACE)
    for subwords in ("all", "first"):
        objective = Ner(["File", "Place"], subwords, 0.0)
        (item,) = objective.items([example], tokenizer, 64)
        tags = [objective.tags[target] for target in item.targets]
        _, offsets = tokenizer.encode_with_offsets([text])
        starts = dict(zip(offsets[item.at - 1, 0].tolist(), tags, strict=True))
        assert [starts[start] for start, _ in words] == ["O", "B-File", "O", "B-Place"]
        assert item.places[:, 1].tolist() == list(range(len(offsets)))
        # The task reads a label from each of three words that BERT makes of evil.dll, four of </s>, two of 北京, and
        # from the space before </s> that is a token of its own in RoBERTa.
        assert len(tags) == {"bert": 10, "roberta": 5}[base] or subwords == "all"
        assert "I-File" in tags or subwords == "first"
        assert IGNORED not in item.targets
        # The text's special token is ordinary characters.
        assert (item.ids == tokenizer.hf.convert_tokens_to_ids(tokenizer.hf.sep_token)).sum() == 1


def test_every_token_that_the_task_reads_a_label_from_is_learned(tiny: Tiny) -> None:
    tokenizer = load_tokenizer(tiny("bert"))
    example = TokenExample("saw CVE-2021-44228 .", ((0, 3), (4, 18), (19, 20)), (Span(4, 18, "Hole"),), None, PLACE)
    (item,) = Ner(["Hole"], "first", 0.0).items([example], tokenizer, 64)
    whole = tokenizer.hf.convert_ids_to_tokens(item.ids.tolist())
    read = [place for place, piece in enumerate(whole) if not piece.startswith("##")][1:-1]
    assert item.at.tolist() == read and len(read) == 7


def test_a_space_that_is_a_token_begins_the_word_behind_it(tiny: Tiny) -> None:
    tokenizer = load_tokenizer(tiny("roberta"))
    text = "Emotet 7.exe ran"
    example = TokenExample(text, ((0, 6), (7, 12), (13, 16)), (Span(7, 12, "File"),), None, PLACE)
    objective = Ner(["File"], "all", 0.0)
    (item,) = objective.items([example], tokenizer, 64)
    _, offsets = tokenizer.encode_with_offsets([text])
    space = int(np.flatnonzero(offsets[:, 1] == 7)[0])  # the tokenizer gives it no width
    assert tokenizer.hf.convert_ids_to_tokens(int(item.ids[1 + space])) == "Ġ"
    tags = [objective.tags[target] for target in item.targets]
    assert tags[space] == "B-File" and set(tags[space + 1 :]) >= {"I-File", "O"} and "B-File" not in tags[space + 1 :]


@pytest.mark.parametrize("base", ["bert", "roberta"])
def test_windows_and_pieces_of_a_long_text_fill_the_positions(base: str, tiny: Tiny) -> None:
    tokenizer = load_tokenizer(tiny(base))
    text = "Emotet ran " * 40
    words = tuple((match.start(), match.end()) for match in re.finditer(r"\S+", text))
    example = TokenExample(text, words, (Span(0, 6, "Malware"), Span(429, 432, "Malware")), None, PLACE)
    tagged = Ner(["Malware"], "all", 0.0).items([example], tokenizer, 20)
    pieces = MaskedWords(Masking(), tokenizer).items([TextExample(text, (), None, PLACE)], tokenizer, 20)
    sequences, offsets = tokenizer.encode_with_offsets([text])
    count = len(offsets)
    for items in (tagged, pieces):
        assert all(len(item.ids) == 20 for item in items[:-1]) and len(items[-1].ids) <= 20
        assert all(item.ids[0] == tokenizer.before[0] and item.ids[-1] == tokenizer.after[0] for item in items)
    assert np.array_equal(np.concatenate([item.ids[item.at] for item in pieces]), sequences.ids)
    numbers = np.concatenate([item.places for item in pieces])
    # In the small vocabulary of RoBERTa the spaces are tokens of their own.
    assert np.unique(numbers).tolist() == list(range(len(words) * {"bert": 1, "roberta": 2}[base]))
    assert (np.diff(numbers) >= 0).all()
    apart = MaskedWords(Masking(whole_words=False), tokenizer).items(
        [TextExample(text, (), None, PLACE)], tokenizer, 20
    )
    for places in ([item.places for item in apart], [item.places[:, 1] for item in tagged]):
        assert np.concatenate(places).tolist() == list(range(count))
    assert sum((item.targets == 1).sum() for item in tagged) == 2  # B-, each once
    assert tagged[0].targets[0] == 1 and len(tagged) == 1 + -(-(count - 18) // (18 - 18 // 4))


def questions(base: ResolvedModel, smoothing: float = 0.0) -> Questions:
    return Questions(smoothing, PairFrame.of(load_tokenizer(base), load_config(base), "question-answering"))


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_questions_frame_and_windows(kind: str, tmp_path: Path) -> None:
    base = resolved(with_token_types(make_bert(tmp_path)) if kind == "bert" else make_roberta(tmp_path))
    tokenizer = load_tokenizer(base)
    context = "Ransomware encrypts files and demands payment; " * 6
    start = context.rindex("payment")
    asked = QuestionExample("What is DDoS?", context, (Answer("payment", start),), None, PLACE)
    objective = questions(base)
    items = objective.items([asked], tokenizer, 40)
    assert len(items) > 1 and all(len(item.ids) <= 40 for item in items)
    for item in items:
        first, last = item.targets
        if first:
            places = dict(zip(item.at, item.places, strict=True))
            assert context[places[first][0] : places[last][1]] == "payment"
    assert items[0].targets.tolist() == [0, 0] and items[-1].targets[0] > 0
    short = QuestionExample("What is DDoS?", "A flood", (), None, PLACE)
    (item,) = objective.items([short], tokenizer, 40)
    wanted = tokenizer.hf("What is DDoS?", "A flood", return_token_type_ids=True)
    assert item.ids.tolist() == wanted["input_ids"]
    if kind == "bert":
        assert item.types is not None and item.types.tolist() == wanted["token_type_ids"]


def test_an_answer_is_learned_in_every_window_that_holds_it_whole(tiny: Tiny) -> None:
    base = tiny("roberta")
    objective, tokenizer = questions(base), load_tokenizer(base)
    words = ["Ransomware", "encrypts", "files", "and", "demands", "payment", "from", "all", "of", "them"] * 4
    context = " ".join(words)
    for first in range(len(words) - 1):
        start = len(" ".join(words[:first])) + (first > 0)
        answer = Answer(" ".join(words[first : first + 2]), start)
        items = objective.items([QuestionExample("What?", context, (answer,), None, PLACE)], tokenizer, 40)
        for item in items:
            inside = np.flatnonzero((item.places[:, 0] < start + len(answer.text)) & (item.places[:, 1] > start))
            whole = len(inside) and item.places[0][0] <= start and item.places[-1][1] >= start + len(answer.text)
            assert item.targets.tolist() == ([item.at[inside[0]], item.at[inside[-1]]] if whole else [0, 0])
        assert any(item.targets[0] for item in items)


def test_a_long_question_has_half_of_the_positions(tiny: Tiny) -> None:
    base = tiny("roberta")
    tokenizer = load_tokenizer(base)
    asked = QuestionExample("What is it? " * 40, "A flood of packets. " * 20, (), None, PLACE)
    items = questions(base).items([asked], tokenizer, 40)
    before = {len(item.ids) - len(item.at) for item in items}
    assert before == {4 + (40 - 4) // 2} and max(len(item.ids) for item in items) == 40  # <s> question </s></s> … </s>


def test_no_answer_is_learned_and_looked_for_where_the_task_looks_for_it(tmp_path: Path) -> None:
    """XLNet's classification token is its last."""
    words = bert_tokenizer()
    last = [(name, words.convert_tokens_to_ids(name)) for name in ("[SEP]", "[CLS]")]
    words.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A [SEP] [CLS]", pair="$A [SEP] $B [SEP] [CLS]", special_tokens=last
    )
    objective = questions(resolved(make_fine_tuned(tmp_path, "electra", "QuestionAnswering", words=words)))
    asked = [QuestionExample("What is DDoS?", text, (), None, PLACE) for text in ("A flood", "Ransomware " * 40)]
    items = objective.items(asked, load_tokenizer(resolved(tmp_path)), 30)
    assert len(items) > 2 and all(item.targets.tolist() == [len(item.ids) - 1] * 2 for item in items)
    batch = objective.batch(items, None)

    class Network:
        """Its answer is each context's first word; of the first text it says that there is none."""

        def token_logits(self, batch: Batch, at: np.ndarray | None) -> torch.Tensor:
            logits = torch.zeros(len(batch.sequences.ids), 2)
            for item, start, end in zip(
                batch.items, batch.sequences.offsets, batch.sequences.offsets[1:], strict=False
            ):
                logits[start + item.at[0]] = 5.0
                logits[end - 1] = 6.0 if item.example == 0 else 4.0
            return logits

    found = objective.evaluate(Network(), asked, lambda: iter([batch]))  # type: ignore[arg-type]
    assert found.metrics["unanswerable"] == 0.5


def test_best_span_is_ordered_and_not_too_long() -> None:
    scores = np.array([[0.0, 9.0], [5.0, 0.0], [0.0, 4.0]])
    assert best_span(scores) == (9.0, 0, 0) or best_span(scores) == (9.0, 1, 2)
    assert best_span(np.array([[0.0, 9.0], [5.0, 0.0], [0.0, 6.0]])) == (11.0, 1, 2)
    assert best_span(np.empty((0, 2))) is None
    random = np.random.default_rng(0)
    for size in (1, 39, 40, 41, 90):
        scores = random.integers(0, 9, (size, 2)).astype(np.float32)  # with ties: the first start, then the first end
        pairs = [(first, last) for first in range(size) for last in range(first, min(size, first + LONGEST_ANSWER))]
        wanted = max(pairs, key=lambda pair: scores[pair[0], 0] + scores[pair[1], 1])
        assert best_span(scores) == (scores[wanted[0], 0] + scores[wanted[1], 1], *wanted)


def test_the_best_span_of_a_long_window_takes_little_memory() -> None:
    """ModernBERT reads 8,192 tokens at once; all pairs of them are 67 million."""
    scores = np.random.default_rng(0).random((8192, 2), np.float32)
    tracemalloc.start()
    try:
        assert best_span(scores) is not None
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_masks_fall_on_whole_words_anew_each_time(tiny: Tiny) -> None:
    tokenizer = load_tokenizer(tiny("roberta"))
    objective = MaskedWords(Masking(rate=0.3, replaced=0.0, kept=0.0), tokenizer)
    text = "Adversaries may compromise sites with unseenwordxyz and cookies. " * 3
    items = objective.items([TextExample(text, (), None, PLACE)], tokenizer, 64)
    first = objective.batch(items, np.random.default_rng(1))
    assert first.weight == len(first.targets) == len(first.at) > 0
    assert set(first.sequences.ids[first.at]) == {tokenizer.mask_id}
    item = items[0]
    hidden = set(first.items[0].at.tolist())
    for word in np.unique(item.places):
        tokens = set(item.at[item.places == word].tolist())
        assert not tokens & hidden or tokens <= hidden
    other = objective.batch(items, np.random.default_rng(2))
    assert not np.array_equal(first.sequences.ids, other.sequences.ids)
    # Evaluation masks an item the same way whatever stands beside it.
    assert np.array_equal(
        objective.batch(items[:1], None).sequences.ids, objective.batch(items[:1], None).sequences.ids
    )


def test_an_answers_target_is_smoothed_over_its_own_tokens(tiny: Tiny) -> None:
    """A batch has the mean loss of its sequences alone, however many tokens the others have."""
    objective = questions(tiny("roberta"), 0.1)
    random = torch.Generator().manual_seed(0)
    items = [Item(np.arange(size), 0, np.array([1, 2]), np.arange(size), np.zeros((size, 2))) for size in (30, 5)]
    logits = [torch.randn(len(item.ids), 2, generator=random) for item in items]

    def loss(*chosen: int) -> float:
        batch = objective.batch([items[number] for number in chosen], None)
        return float(objective._loss_of(torch.cat([logits[number] for number in chosen]), batch, 0.1))

    alone = [F.cross_entropy(one.T, torch.tensor([1, 2]), label_smoothing=0.1) for one in logits]
    assert loss(0) == pytest.approx(float(alone[0])) and loss(1) == pytest.approx(float(alone[1]))
    assert loss(0, 1) == pytest.approx(sum(map(float, alone)) / 2)
