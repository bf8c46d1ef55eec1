"""What was computed for a text stands for the same text later, and for no other."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from secbatch.job import Embed, FillMask
from secbatch.models.device import choose
from secbatch.models.resolved import ResolvedModel
from secbatch.models.shared_encoder import SharedEncoder
from secbatch.tasks.embed import EmbedTask
from secbatch.tasks.fill_mask import FillMaskTask
from secbatch.tasks.repeats import Repeats, text_keys

Tiny = Callable[[str], ResolvedModel]
CPU = choose("cpu", "float32")


def add(repeats: Repeats, texts: list[str], results: list[bytes]) -> None:
    lengths = np.array([len(one) for one in results], np.int64)
    repeats.add(text_keys(texts), np.frombuffer(b"".join(results), np.uint8), lengths)


def test_results_of_any_length_are_found_again_by_their_text(tmp_path: Path) -> None:
    repeats = Repeats(tmp_path, sets=4096)
    texts = [f"text {number}" for number in range(100)]
    results = [bytes([number]) * (number * 97) for number in range(100)]
    add(repeats, texts[:60], results[:60])
    add(repeats, texts[60:], results[60:])
    assert repeats.find(text_keys([*texts, "unknown"])) == dict(enumerate(results))
    assert list(tmp_path.iterdir()) == []  # a process that dies leaves nothing


def test_the_ring_forgets_the_oldest_and_never_mixes_results_up(tmp_path: Path) -> None:
    repeats = Repeats(tmp_path, sets=4096, capacity=4000)
    random = np.random.default_rng(0)
    wanted: dict[str, bytes] = {}
    for round_ in range(60):
        texts = [f"{round_} {number}" for number in range(7)]
        results = [random.bytes(int(random.integers(0, 150))) for _ in texts]
        add(repeats, texts, results)
        wanted |= dict(zip(texts, results, strict=True))
        everything = list(wanted)
        for place, result in repeats.find(text_keys(everything)).items():
            assert result == wanted[everything[place]]
        assert len(repeats.find(text_keys(texts))) == 7


def test_a_full_set_gives_way_to_new_texts(tmp_path: Path) -> None:
    repeats = Repeats(tmp_path, sets=1)
    texts = [str(number) for number in range(20)]
    add(repeats, texts, [text.encode() for text in texts])
    assert repeats.find(text_keys(texts)) == {place: texts[place].encode() for place in range(16, 20)}


def test_a_disk_that_refuses_ends_the_memory_and_nothing_else(tmp_path: Path) -> None:
    repeats = Repeats(tmp_path / "missing")
    add(repeats, ["a"], [b"result"])
    assert repeats.find(text_keys(["a"])) == {}


@pytest.mark.parametrize("kind", ["roberta", "modernbert"])
def test_texts_of_an_earlier_shard_are_not_computed_again(tiny: Tiny, kind: str, tmp_path: Path) -> None:
    first = pa.table({"text": ["The <mask> steals", "<mask> and <mask>", "plain words", "a <mask>" + " far" * 900]})
    second = pa.table({"text": ["plain words", "<mask> is new", "a <mask>" + " far" * 900, None, "<mask> and <mask>"]})
    encoder, fresh = SharedEncoder(tiny(kind), CPU, tmp_path), SharedEncoder(tiny(kind), CPU)
    mask = FillMask(type="fill-mask", model="tiny", text="text", top_k=7)
    embed = Embed(type="embed", model="tiny", text="text")
    for made, again in (
        (FillMaskTask("mask", mask, first.schema, encoder), FillMaskTask("mask", mask, first.schema, fresh)),
        (EmbedTask("vec", embed, first.schema, encoder), EmbedTask("vec", embed, first.schema, fresh)),
    ):
        encoder._loaded = fresh._loaded = False
        made.load(), again.load()
        if not encoder.batch_free:
            pytest.skip("this build of torch sums in another order in other batches")

        def run(task: FillMaskTask | EmbedTask, table: pa.Table) -> tuple[int, dict[str, pa.Array]]:
            ids = pa.array([str(row) for row in range(table.num_rows)])
            encoded = task.encode(table, ids, pa.array([True] * table.num_rows))
            done = task.finish(task.compute(encoded))  # type: ignore[arg-type]
            assert not done.errors
            return done.tokens, done.columns

        run(made, first)
        tokens, columns = run(made, second)
        all_tokens, wanted = run(again, second)
        assert 0 < tokens < all_tokens
        for name, column in columns.items():
            assert column.equals(wanted[name]), name  # the same bits
        assert run(made, second)[0] == 0
