"""What `plan` says is what a run then does."""

import shutil
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from fake_task import Counter, UpperTask, install, interrupted_after

from secbatch import probing
from secbatch.cli.main import _run
from secbatch.errors import InputError, OutputError, OutputHeldError, UnfitOutputError
from secbatch.identity import Identified
from secbatch.job import Job
from secbatch.models.linear import has_blocked_layers
from secbatch.pacing import ShardSizes
from secbatch.planning import plan_job
from secbatch.reuse import Looked, Reuse
from secbatch.runner import run_job
from secbatch.running import SPEED
from secbatch.store.layout import Layout
from secbatch.store.ledger import Ledger
from secbatch.store.lock import hold


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter:
    monkeypatch.chdir(tmp_path)
    return install(monkeypatch)


def job(**tasks: str) -> Job:
    values = {
        "name": "test",
        "input": {"path": "in.csv", "id": ["id"]},
        "tasks": {name: {"type": "fill-mask", "model": "fake", "text": text} for name, text in tasks.items()},
        "output": {"path": "out"},
    }
    return Job.model_validate(values)


def write(rows: dict[int, str], *more: str) -> None:
    Path("in.csv").write_text(
        "\n".join(["id,text,other", *(f"{n},{text},o{n}" for n, text in rows.items()), *more, ""])
    )


def test_rows_to_do_and_to_reuse_are_those_of_the_run(counter: Counter) -> None:
    rows = {n: f"word {n}" for n in range(700)}
    write(rows, "1,too,many,fields")
    for change, todo in [({}, 700), ({}, 0), ({3: "new", 400: "new"}, 2), ({700: "more"}, 1)]:
        rows |= change
        write(rows, "1,too,many,fields")
        before = counter.rows
        plan = plan_job(job(up="text"))
        probed = counter.rows - before
        assert probed <= 2 * probing.ROWS + probing.WARMING_ROWS
        assert (plan.todo_rows, plan.reused_rows, plan.unparseable) == (todo, len(rows) - todo, 1)
        assert (plan.seconds is None) == (todo == 0)
        before = counter.rows
        result = run_job(job(up="text"))
        assert (result.enriched, result.reused, result.unparseable) == (todo, len(rows) - todo, 1)
        assert counter.rows - before == todo
        if todo:
            assert plan.tokens == pytest.approx(result.tokens)  # this task counts one token a row
    plan = plan_job(job(up="text", second="other"))  # a new task is all there is to do
    assert (plan.todo_rows, plan.tokens) == (701, pytest.approx(701))


def test_the_sample_is_spread_over_all_that_is_to_be_done(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    write({n: "long " * 50 if n < 1_000 else "short" for n in range(10_000)})
    seen: list[int] = []
    rows = probing.Sample.rows

    def looks(self: probing.Sample) -> "probing._Rows | None":
        found = rows(self)
        assert found is not None
        seen.extend(found.numbers.tolist())
        assert len(found.identified.ids) == len(found.identified.shard.row) == len(found.numbers)
        assert found.identified.ids.to_pylist() == [str(n) for n in found.numbers]
        return found

    monkeypatch.setattr(probing.Sample, "rows", looks)
    plan_job(job(up="text"))
    assert probing.ROWS <= len(seen) <= 2 * probing.ROWS
    assert set(np.diff(seen)) == {seen[1] - seen[0]} and seen[0] == 0 and seen[-1] > 9_800


def test_a_slow_model_is_measured_on_fewer_rows(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    write(dict.fromkeys(range(1000), "x"))
    monkeypatch.setattr(probing, "LONGEST_SECONDS", 0.0)
    plan = plan_job(job(up="text"))
    assert plan.probed_rows <= probing.ROWS_AT_ONCE and plan.seconds


def test_what_a_run_that_was_stopped_has_rejected_is_done(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secbatch.runner.shard_rows_schedule", lambda job, cuda: (2, 3))
    rows = {n: "poison" if n % 2 else f"word {n}" for n in range(20)}
    write(rows)
    for change, todo in [({}, 15), ({1: "other"}, 1)]:
        shutil.rmtree("out", ignore_errors=True)
        write(rows)
        counter.rows = 0
        with interrupted_after(5):
            run_job(job(up="text"))
        write(rows | change)
        plan, result = plan_job(job(up="text")), run_job(job(up="text"))
        assert (plan.todo_rows, plan.reused_rows) == (result.enriched, result.reused)
        assert plan.reused_rows >= 2 and plan.todo_rows >= todo


def test_texts_that_come_again_are_computed_once_and_count_once(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    write({n: f"word {n % 300}" for n in range(2000)})
    assert plan_job(job(up="text", second="other")).tokens == pytest.approx(4000)
    monkeypatch.setattr(UpperTask, "remembers", True, raising=False)
    plan = plan_job(job(up="text", second="other"))  # one of them reads another thing in each row
    assert plan.tokens == pytest.approx(2300, rel=0.01) and plan.probed_rows >= probing.ROWS
    assert plan_job(job(up="text")).tokens == pytest.approx(300)
    write({n: f"word {n % 3}" for n in range(2000)})
    assert plan_job(job(up="text")).tokens == pytest.approx(3)  # fewer than are warmed up with


def test_each_task_is_taken_as_often_as_it_is_computed(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    now, compute = [0.0], UpperTask.compute

    def timed(task: UpperTask, encoded: Any) -> Any:
        now[0] += len(encoded) * {"text": 10.0, "other": 0.001}[task.spec.text]
        return compute(task, encoded)

    monkeypatch.setattr(UpperTask, "compute", timed)
    monkeypatch.setattr(UpperTask, "remembers", True, raising=False)
    monkeypatch.setattr(probing, "time", MagicMock(monotonic=lambda: now[0]))
    write({n: f"word {n % 30}" for n in range(2000)})
    cost = []
    monkeypatch.setattr("secbatch.planning.measure", lambda *given: cost.append(probing.measure(*given)) or cost[0])
    plan_job(job(slow="text", quick="other"))
    assert cost[0].seconds == pytest.approx(30 * 10 + 2000 * 0.001, rel=0.01)


def test_the_tokens_of_texts_that_come_again_are_those_of_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    write({n: f"attackers sent <mask> number {n % 20}" for n in range(400)})
    texts = (
        {"type": "fill-mask", "model": "builtin/mlm", "text": "text"},
        {"type": "embed", "model": "builtin/mlm", "text": "text"},
    )
    asks = {"type": "chat", "model": "builtin/chat", "text": "text", "generation": {"max_new_tokens": 4}}
    values = {"name": "n", "input": {"path": "in.csv", "id": ["id"]}, "output": {"path": "out"}}
    made = Job.model_validate(values | {"tasks": {"mask": texts[0], "vec": texts[1], "answer": asks}})
    plan, result = plan_job(made), run_job(made)
    assert plan.tokens is not None and plan.tokens >= 0.95 * result.tokens
    assert plan.tokens == pytest.approx(result.tokens, rel=0.05) or not has_blocked_layers(torch.float32)


def test_expected_shards() -> None:
    assert ShardSizes((128, 512, 0)).expected(0, 10.0) == 0
    assert ShardSizes((128, 512, 0)).expected(100, 10.0) == 1
    assert ShardSizes((128, 512, 0)).expected(640, 10.0) == 2
    assert ShardSizes((128, 512, 0)).expected(640 + 2560, 10.0) == 2 + 10  # 30 s at 10 rows/s: 256 rows
    assert ShardSizes((2, 3)).expected(8, 10.0) == 3


def test_rows_are_counted_in_shards_as_a_run_cuts_them(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    write({n: f"word {n}" for n in range(9000)})
    look, looks = Reuse.look, []

    def counted(reuse: Reuse, identified: Identified) -> Looked:
        looks.append(identified.shard.num_rows)
        return look(reuse, identified)

    monkeypatch.setattr(Reuse, "look", counted)
    assert plan_job(job(up="text")).todo_rows == sum(looks) == 9000
    assert len(looks) == 5  # large ones after those that every run begins with: nothing is computed in them
    run_job(job(up="text"))
    with closing(Ledger(Layout(Path("out")).ledger)) as ledger:
        ledger.fix_setting(SPEED, "70")  # rows a second: shards of 2,048 rows
    plan = plan_job(job(up="text"))
    assert (plan.reused_shards, plan.todo_rows) == (8, 0)
    assert run_job(job(up="text")).shards == 8


def test_plan_and_dry_run_print_it(counter: Counter, capsys: pytest.CaptureFixture[str]) -> None:
    write(dict.fromkeys(range(10), "x"))
    Path("job.yaml").write_text(
        "name: j\ninput: {path: in.csv, id: id}\noutput: {path: out}\n"
        "tasks: {up: {type: fill-mask, model: m, text: text}}\n"
    )
    for command in (["plan", "job.yaml"], ["run", "job.yaml", "--dry-run"]):
        assert _run(command) == 0
        shown = capsys.readouterr().out
        assert "10 rows in about 1 shard" in shown and "from a probe of 10 rows" in shown and "about 10, " in shown
    assert not Path("out").exists()


def test_an_output_that_a_run_would_refuse_is_refused(counter: Counter) -> None:
    write({1: "x"})
    run_job(job(up="text", second="other"))
    made = job(up="text", second="other")

    def other(**keys: object) -> Job:
        return made.model_copy(update={"output": made.output.model_copy(update=keys)})

    by_rows = made.model_copy(update={"input": made.input.model_copy(update={"id": ()})})
    for refused, words in (
        (other(path="in.csv"), "is a file"),
        (other(path="s3://bucket/out"), "is not a local folder"),
        (other(path="out/data"), "lies within what belongs to the output"),
        (other(mode="fail-if-exists"), "exists already and the job says `mode: fail-if-exists`"),
        (by_rows, r'was made with id = \["id"\], the job says \[\]'),
    ):
        for attempt in (plan_job, run_job):
            with pytest.raises(UnfitOutputError, match=words):
                attempt(refused)
    assert "Task 'second' is no longer in the job; its columns go from the dataset." in plan_job(job(up="text")).notices
    Path("in.csv").write_text("id,text\n1,x\n")
    with pytest.raises(InputError, match="Column 'other' of the dataset in 'out' is not in the input"):
        plan_job(job(up="text"))


def test_a_place_that_may_not_be_written_gets_no_plan(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    write({1: "word"})
    monkeypatch.setattr("os.access", lambda place, mode: False)  # whoever runs the tests may write anywhere
    with pytest.raises(OutputError, match=r"Output 'out/_secbatch' is not writable \(Permission denied\)"):
        plan_job(job(up="text"))


def test_what_is_known_of_a_loaded_model_is_said(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    write({1: "word"})
    monkeypatch.setattr(UpperTask, "load", lambda task: setattr(task, "notices", ("it is slow here",)))
    assert plan_job(job(up="text")).notices.count("it is slow here") == 1
    run_job(job(up="text"))
    assert "it is slow here" not in plan_job(job(up="text")).notices  # nothing is to be done, nothing is loaded


def test_a_faster_precision_is_named_where_nobody_has_chosen_one(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    write({1: "word"})
    monkeypatch.setattr("secbatch.models.device.cpu_has_amx_bf16", lambda: False)
    monkeypatch.setattr("secbatch.models.device._cpu_flags", lambda: frozenset({"avx512_bf16"}))
    asked = job(up="text")

    def named(asked: Job) -> bool:
        return any("bfloat16 is up to twice as fast" in text for text in plan_job(asked).notices)

    assert named(asked)
    assert not named(asked.model_copy(update={"precision": "float32"}))
    result = run_job(asked)
    assert not any("bfloat16" in text for text in result.notices)
    assert not named(asked)  # nothing is to be done


def test_a_caller_gets_its_threads_back(counter: Counter, more_threads: int) -> None:
    write({1: "word"})
    for work in (plan_job, run_job):
        assert "1 thread)" in work(job(up="text")).device  # type: ignore[operator]
        assert torch.get_num_threads() == more_threads


@pytest.mark.parametrize("what", ["keys", "parts"])
@pytest.mark.parametrize("ended", [True, False], ids=["ended", "at work"])
def test_what_a_run_takes_away_meanwhile_is_not_damage(
    counter: Counter, monkeypatch: pytest.MonkeyPatch, what: str, ended: bool
) -> None:
    rows = {n: f"word {n}" for n in range(20)}
    write(rows)
    run_job(job(up="text"))
    look, lock = Reuse.look, Layout(Path("out")).lock

    def amid(self: Reuse, identified: Identified) -> Looked:
        monkeypatch.setattr(Reuse, "look", look)
        if what == "parts":  # their keys are worked out from them
            shutil.rmtree("out/_secbatch/keys")
        for night in range(4):
            write(rows | {0: f"night {night}"})
            run_job(job(up="text"))
        if not ended:
            stack.enter_context(hold(lock))
        return look(self, identified)

    monkeypatch.setattr(Reuse, "look", amid)
    with ExitStack() as stack:
        if ended:
            assert (plan_job(job(up="text")).todo_rows, plan_job(job(up="text")).reused_rows) == (0, 20)
        else:
            with pytest.raises(OutputHeldError, match="Another run holds output 'out'"):
                plan_job(job(up="text"))


def test_a_reference_that_lies_on_disk_needs_no_output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("secbatch.tasks.reference_vectors.IN_MEMORY", 0)
    write({n: f"row {n}" for n in range(9)})
    reference = {"path": "in.csv", "id": "id", "text": "other"}
    near = {"type": "similarity", "model": "builtin/mlm", "text": "text", "reference": reference}
    values = {"name": "n", "input": {"path": "in.csv"}, "tasks": {"near": near}, "output": {"path": "out"}}
    assert plan_job(Job.model_validate(values)).todo_rows == 9
    assert not Path("out").exists()


@pytest.mark.parametrize("ledger", [None, b"", b"rubbish" * 99])
def test_without_a_ledger_that_can_be_read_what_the_parts_hold_is_done(ledger: bytes | None, counter: Counter) -> None:
    rows = {n: f"word {n}" for n in range(20)}
    write(rows)
    run_job(job(up="text"))
    write(rows | {20: "new"})
    layout = Layout(Path("out"))
    layout.ledger.unlink()
    if ledger is not None:
        layout.ledger.write_bytes(ledger)
    before = sorted(path for path in Path("out").rglob("*"))
    plan = plan_job(job(up="text"))
    assert (plan.todo_rows, plan.reused_rows) == (1, 20) and "is gone or damaged; a run makes" in plan.notices[0]
    assert sorted(path for path in Path("out").rglob("*")) == before
    result = run_job(job(up="text"))
    assert (result.enriched, result.reused) == (1, 20)
