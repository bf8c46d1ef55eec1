"""The training loop, its batches and schedule, on a model small enough to learn in seconds."""

import itertools
import random
from types import SimpleNamespace

import pytest
import torch
from transformers import BlenderbotConfig, BlenderbotForConditionalGeneration

from secbatch.training.chat_batches import Topics, batches, pad_batch
from secbatch.training.chat_model import POSITIONS, build_model
from secbatch.training.chat_tokenizer import train_tokenizer
from secbatch.training.chat_training import Schedule, TrainingReport, topic_head, train, train_encoder
from secbatch.training.dialogue import DialogueSampler
from secbatch.training.dialogue_entries import Entry

ENTRIES = [
    Entry(
        "phishing",
        (),
        "attack",
        {"what": "Phishing is a fraud.", "prevent": "Train people."},
        "glossary",
        1.0,
    ),
    Entry("worm", (), "attack", {"what": "A worm spreads alone.", "prevent": "Patch quickly."}, "glossary", 1.0),
]


@pytest.fixture(scope="module")
def tokenizer():
    drawn = DialogueSampler(ENTRIES, [], 0).draw(300)
    return train_tokenizer([t for d in drawn for t in (*d.turns, d.answer)], vocabulary_size=600, positions=POSITIONS)


def test_pad_batch_shifts_the_target_and_hides_padding():
    batch = pad_batch([([5, 6, 2], [7, 8, 2], (3, 0)), ([5, 2], [9, 2], (4, 1))])
    assert batch.source.tolist() == [[5, 6, 2], [5, 2, 0]]
    assert batch.source_mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch.decoder_input.tolist() == [[1, 7, 8], [1, 9, 0]]
    assert batch.labels.tolist() == [[7, 8, 2], [9, 2, -100]]
    assert batch.topics.tolist() == [[3, 0], [4, 1]]
    assert batch.tokens == 10


def test_topics_number_terms_and_intents_in_the_order_they_come():
    topics = Topics()
    asked = [("worm", "what"), ("phishing", "what"), ("worm", "prevent")]
    assert [topics.number(topic) for topic in asked] == [(0, 0), (1, 0), (0, 1)]


def test_batches_keep_to_their_budget(tokenizer):
    stream = batches(
        DialogueSampler(ENTRIES, [], 0), tokenizer, budget=200, positions=POSITIONS, seed=0, topics=Topics()
    )
    for _ in range(40):
        batch = next(stream)
        assert batch.labels.shape[0] * batch.labels.shape[1] <= 200
        assert batch.source.shape[1] <= POSITIONS


def test_schedule_warms_up_and_ends_at_zero():
    schedule = Schedule(peak=1.0, seconds=100, warmup_steps=10)
    assert schedule.rate(0, 0) == pytest.approx(0.1)
    assert schedule.rate(50, 50) == pytest.approx(0.5)
    assert schedule.rate(99, 100) == schedule.rate(99, 500) == pytest.approx(0.0, abs=1e-9)


def test_training_lowers_the_loss_and_keeps_to_its_time(tokenizer, monkeypatch):
    now = itertools.count()  # each look at the clock finds it 0.02 s later, so that no machine makes fewer steps
    clock = SimpleNamespace(monotonic=lambda: next(now) / 50)
    monkeypatch.setattr("secbatch.training.chat_training.time", clock)
    torch.manual_seed(0)
    random.seed(0)
    config = BlenderbotConfig(
        vocab_size=len(tokenizer), max_position_embeddings=POSITIONS, d_model=32, scale_embedding=True,
        encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=64, decoder_ffn_dim=64, dropout=0.0,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    model = BlenderbotForConditionalGeneration(config)
    stream = batches(
        DialogueSampler(ENTRIES, [], 0), tokenizer, budget=300, positions=POSITIONS, seed=0, topics=Topics()
    )
    first = next(stream)
    labels = first.labels
    before = float(model(first.source, first.source_mask, first.decoder_input, labels=labels).loss.detach())
    head = topic_head(model)
    train_encoder(model, head, stream, Schedule(1e-2, 1.0, 10), lambda line: None)
    told: list[TrainingReport] = []
    report = train(model, head, stream, Schedule(1e-2, 4.0, 10), lambda line: None, told.append, 1 / 60)
    after = float(model(first.source, first.source_mask, first.decoder_input, labels=labels).loss.detach())
    assert report.steps > 20 and report.minutes < 0.3
    assert 0 < told[0].steps < report.steps and told[0].tokens < report.tokens
    assert after < before / 2


def test_model_has_blenderbots_architecture_and_a_size_that_ships():
    model = build_model(8000)
    assert model.config.architectures is None or model.config.model_type == "blenderbot"
    assert model.num_parameters() * 2 <= 30_000_000
    assert model.config.decoder_start_token_id == 1 and model.config.max_position_embeddings == 128
