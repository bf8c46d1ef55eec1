"""What was computed for a text stands for the same text later, and for no other."""

import gc
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from weakref import WeakSet

import numpy as np
import pyarrow as pa
import pytest
from interrupted_anywhere import interrupted_at_each_step

from secbatch.job import Job
from secbatch.models.device import choose
from secbatch.models.resolved import ResolvedModel
from secbatch.models.shared_encoder import SharedEncoder
from secbatch.planning import plan_job
from secbatch.runner import run_job
from secbatch.task_specs import Embed, FillMask
from secbatch.tasks import repeats as repeats_room
from secbatch.tasks.base import TaskColumns
from secbatch.tasks.embed import EmbedTask
from secbatch.tasks.fill_mask import FillMaskTask
from secbatch.tasks.repeats import WAYS, Repeats, recall, recall_again, text_keys
from secbatch.tasks.text import DistinctTexts

Tiny = Callable[[str], ResolvedModel]
CPU = choose("cpu", "float32")


def add(repeats: Repeats, texts: list[str], results: list[bytes]) -> None:
    lengths = np.array([len(one) for one in results], np.int64)
    repeats.add(text_keys(texts), np.frombuffer(b"".join(results), np.uint8), lengths)


@pytest.mark.parametrize("written", [repeats_room.WRITTEN, 5000, 1])
def test_results_of_any_length_are_found_again_by_their_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    monkeypatch.setattr(repeats_room, "WRITTEN", written)
    repeats = Repeats(tmp_path, sets=4096)
    texts = [f"text {number}" for number in range(100)]
    results = [bytes([number]) * (number * 97) for number in range(100)]
    add(repeats, texts[:60], results[:60])
    add(repeats, texts[60:], results[60:])
    assert repeats.find(text_keys([*texts, "unknown"])) == dict(enumerate(results))
    assert list(tmp_path.iterdir()) == []  # a process that dies leaves nothing


@pytest.mark.parametrize("written", [repeats_room.WRITTEN, 400])
def test_the_ring_forgets_the_oldest_and_never_mixes_results_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    monkeypatch.setattr(repeats_room, "WRITTEN", written)
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


def test_each_row_has_the_result_of_its_text_whenever_that_became_known(tmp_path: Path) -> None:
    repeats = Repeats(tmp_path)
    add(repeats, ["d", "b"], [b"of d", b"of b"])
    rows = ["a", "b", "c", None, "d", "a", "e", "f"]
    distinct = DistinctTexts.of(pa.array(rows, pa.large_string()), pa.array([True] * len(rows)))
    recalled = recall(distinct, repeats)
    for more in (["e", "a"], ["f"], ["c"]):  # shards before this one, which end while it waits
        add(repeats, more, [f"of {text}".encode() for text in more])
        recalled = recall_again(recalled, repeats)
        repeats.add(np.empty((0, 2), np.uint64), np.empty(0, np.uint8), np.empty(0, np.int64))  # it is through
        texts = [*recalled.texts, *(result.decode().removeprefix("of ") for result in recalled.results)]
        assert [None if place < 0 else texts[place] for place in recalled.rows] == rows
        assert text_keys(recalled.texts).tolist() == recalled.keys.tolist()
    assert not len(recalled.texts)


def test_a_full_set_gives_way_to_new_texts(tmp_path: Path) -> None:
    repeats = Repeats(tmp_path, sets=1)
    texts = [str(number) for number in range(20)]
    add(repeats, texts, [text.encode() for text in texts])
    assert repeats.find(text_keys(texts)) == {place: texts[place].encode() for place in range(20 - WAYS, 20)}


def test_hardly_a_text_finds_its_set_full_while_half_of_the_table_is_free(tmp_path: Path) -> None:
    # What is missed makes batches of a few texts, of another size in each shard, which cost memory besides time.
    repeats = Repeats(tmp_path, sets=1024)
    texts = [str(number) for number in range(1024 * WAYS // 2)]
    add(repeats, texts, [text.encode() for text in texts])
    assert len(repeats.find(text_keys(texts))) > 0.997 * len(texts)


def test_a_table_grows_with_its_texts_and_loses_none(tmp_path: Path) -> None:
    repeats, texts = Repeats(tmp_path), [str(number) for number in range(60_000)]
    sizes = []
    for start in range(0, len(texts), 10_000):
        some = texts[start : start + 10_000]
        add(repeats, some, [text.encode() for text in some])
        sizes.append(repeats._tags.nbytes + repeats._places.nbytes)
    assert repeats.find(text_keys(texts)) == {place: text.encode() for place, text in enumerate(texts)}
    assert sizes[0] <= 2 << 20 and sizes[-1] <= 8 << 20  # not the 64 MB that it may take, in each task of a job


def test_keys_that_look_alike_in_the_table_are_told_apart(tmp_path: Path) -> None:
    keys = np.array([[7, 1], [7 + (1 << 32), 2], [7 + (1 << 33), 3], [7 + (1 << 34), 4]], np.uint64)
    repeats = Repeats(tmp_path)
    repeats.add(keys[:3], np.frombuffer(b"abc", np.uint8), np.ones(3, np.int64))
    assert repeats.find(keys) == {0: b"a", 1: b"b", 2: b"c"}


GROWN = """
import sys
from pathlib import Path
import numpy as np
from secbatch.freed_memory import keep_freed_memory
from secbatch.tasks.repeats import Repeats

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

keep_freed_memory()
repeats, draw, lengths = Repeats(Path(sys.argv[1])), np.random.default_rng(0), np.ones(10_000, np.int64)
repeats.add(draw.integers(0, 1 << 63, (1, 2), np.uint64), np.zeros(1, np.uint8), lengths[:1])
before = resident()
for _ in range(60):
    repeats.add(draw.integers(0, 1 << 63, (10_000, 2), np.uint64), np.zeros(10_000, np.uint8), lengths)
print(repeats._tags.nbytes + repeats._places.nbytes, resident() - before)
"""


def test_a_table_that_has_doubled_leaves_nothing_of_what_it_was(tmp_path: Path) -> None:
    command = [sys.executable, "-c", GROWN, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    size, taken = map(int, done.stdout.split())
    assert taken < size + (10 << 20)


def test_the_ring_lets_go_of_texts_that_a_table_need_not_grow_for(tmp_path: Path) -> None:
    repeats = Repeats(tmp_path, capacity=100_000)
    for start in range(0, 40_000, 1000):
        some = [f"{number:05}" for number in range(start, start + 1000)]
        add(repeats, some, [text.encode() * 4 for text in some])
        assert len(repeats.find(text_keys(some))) == 1000
    assert len(repeats._tags) == repeats_room.FEW


def test_the_tables_of_many_tasks_share_what_they_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats_room, "_TABLES", WeakSet())
    monkeypatch.setattr(repeats_room, "SHARED", 12 * repeats_room.FEW)
    free = 1 << 30
    monkeypatch.setattr(repeats_room.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    tasks = [Repeats(tmp_path) for _ in range(10)]
    texts = [str(number) for number in range(20_000)]
    for repeats in tasks:
        add(repeats, texts[:1], [b"x"])
    for repeats in tasks:
        add(repeats, texts, [b"x"] * len(texts))
        assert len(repeats.find(text_keys(texts[-1000:]))) > 900
    assert sum(len(repeats._tags) for repeats in tasks) == 12 * repeats_room.FEW
    assert sum(repeats._capacity for repeats in tasks) <= free // repeats_room.ALL_SHARE
    alone = Repeats(tmp_path)
    del tasks, repeats
    add(alone, texts, [b"x"] * len(texts))
    assert len(alone.find(text_keys(texts))) == len(texts)


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


@pytest.mark.parametrize("task_type", ["fill-mask", "embed"])
def test_a_text_that_failed_is_not_remembered(tiny: Tiny, task_type: str, tmp_path: Path) -> None:
    table = pa.table({"text": ["The <mask> steals", "broken <mask>", "<mask> and <mask>"]})
    ids, usable = pa.array(["0", "1", "2"]), pa.array([True] * 3)
    encoder = SharedEncoder(tiny("roberta"), CPU, tmp_path)
    mask = FillMask(type="fill-mask", model="tiny", text="text", top_k=3)
    embed = Embed(type="embed", model="tiny", text="text")
    task: FillMaskTask | EmbedTask = (
        FillMaskTask("x", mask, table.schema, encoder)
        if task_type == "fill-mask"
        else EmbedTask("x", embed, table.schema, encoder)
    )
    task.load()
    if not encoder.batch_free:
        pytest.skip("this build of torch sums in another order in other batches")
    computed = task.compute(task.encode(table, ids, usable))  # type: ignore[arg-type]
    computed.errors[1] = "the text has 5 tokens, more than the memory takes at once"
    assert list(task.finish(computed).errors) == [1]  # type: ignore[arg-type]
    later = task.encode(table, ids, usable)
    assert len(later.recalled.texts) == 1 and later.recalled.texts[0] == "broken <mask>"
    done = task.finish(task.compute(later))  # type: ignore[arg-type]
    assert not done.errors and all(column.null_count == 0 for column in done.columns.values())


def test_shards_that_are_encoded_before_the_first_is_done(tiny: Tiny, tmp_path: Path) -> None:
    """As in a run: while one shard is computed, the next ones are encoded already, and the one before is finished."""
    tables = [
        pa.table({"text": ["The <mask> steals", "<mask> and <mask>", "a <mask>"]}),
        pa.table({"text": ["<mask> and <mask>", None, "<mask> is new", "The <mask> steals", "<mask> is new"]}),
        pa.table({"text": ["<mask> is new", "a <mask>", "The <mask> steals"]}),
    ]
    spec = FillMask(type="fill-mask", model="tiny", text="text", top_k=7)

    def stages(encoder: SharedEncoder, wait: float) -> list[tuple[int, dict[str, pa.Array]]]:
        task = FillMaskTask("mask", spec, tables[0].schema, encoder)
        task.load()
        if not encoder.batch_free:
            pytest.skip("this build of torch sums in another order in other batches")
        encoded = [
            task.encode(table, pa.array([str(row) for row in range(len(table))]), pa.array([True] * len(table)))
            for table in tables
        ]
        done: list[Future[TaskColumns]] = []

        def finished(computed: object) -> TaskColumns:
            time.sleep(wait)
            return task.finish(computed)  # type: ignore[arg-type]

        with ThreadPoolExecutor(1) as finisher:
            for one in encoded:
                done.append(finisher.submit(finished, task.compute(one)))
        return [(one.result().tokens, one.result().columns) for one in done]

    wanted = stages(SharedEncoder(tiny("roberta"), CPU), wait=0.0)
    got = stages(SharedEncoder(tiny("roberta"), CPU, tmp_path), wait=0.2)
    for (_, columns), (_, others) in zip(got, wanted, strict=True):
        assert all(column.equals(others[name]) for name, column in columns.items())
    assert got[0][0] == wanted[0][0] and 0 < got[1][0] < wanted[1][0] and got[2][0] == 0


def test_an_interrupt_amid_its_lock_leaves_nobody_waiting(tmp_path: Path) -> None:
    keys, lengths = text_keys(["a", "b"]), np.full(2, 4)
    results = np.arange(8, dtype=np.uint8)

    def work() -> None:
        repeats = Repeats(tmp_path)
        try:
            repeats.wait_for(keys)
            repeats.expect(keys)
            repeats.add(keys, results, lengths)
        finally:
            repeats.add(keys, results, lengths)  # as another thread does
        assert len(repeats.find(keys)) == 2

    assert len(list(interrupted_at_each_step(work, ("threading.py",)))) > 5


def test_what_a_run_and_a_plan_remembered_goes_with_them(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("text\na word\nanother <mask>\n")
    task = {"model": str(tiny("roberta").folder), "text": "text"}
    values = {
        "name": "a",
        "input": {"path": str(tmp_path / "in.csv")},
        "tasks": {"mask": {"type": "fill-mask", **task}, "vec": {"type": "embed", **task}},
        "output": {"path": str(tmp_path / "out")},
        "device": "cpu",
    }
    wanted = Job.model_validate(values)
    gc.disable()
    try:
        before = set(repeats_room._TABLES)
        plan_job(wanted)
        run_job(wanted)
        left = set(repeats_room._TABLES) - before
        assert left  # the tasks are still there: only a collection lets go of them
        assert all(table._file is None and not len(table._tags) for table in left)
    finally:
        gc.enable()


def test_a_shard_that_never_comes_is_not_waited_for_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(repeats_room, "PATIENCE", 0.1)
    repeats, keys = Repeats(tmp_path), text_keys(["a", "b", "c"])
    repeats.expect(keys)
    begin = time.monotonic()
    repeats.wait_for(text_keys(["x", "y"]))  # has nothing in common with it
    assert time.monotonic() - begin < 0.05
    repeats.wait_for(keys[:1])
    assert time.monotonic() - begin >= 0.1
    begin = time.monotonic()
    repeats.wait_for(keys[:1])
    assert time.monotonic() - begin < 0.05


@pytest.mark.parametrize("task_type", ["fill-mask", "embed"])
def test_what_waits_to_be_finished_holds_neither_texts_nor_tokens(tiny: Tiny, task_type: str, tmp_path: Path) -> None:
    """They weigh as much as the results."""
    encoder = SharedEncoder(tiny("roberta"), CPU, tmp_path)
    schema = pa.schema([pa.field("text", pa.string())])
    task: FillMaskTask | EmbedTask
    if task_type == "fill-mask":
        task = FillMaskTask("task", FillMask(type="fill-mask", model="tiny", text="text"), schema, encoder)
    else:
        task = EmbedTask("task", Embed(type="embed", model="tiny", text="text"), schema, encoder)
    task.load()

    def weight(text: str) -> int:
        table = pa.table({"text": [f"The host was {text} by <mask>."]}, schema=schema)
        waiting = task.encode(table, pa.array(["row"]), pa.array([True]))
        return len(pickle.dumps(task.compute(waiting)))

    assert weight("attacked " * 40) == weight("attacked")
