"""Conversations night after night: only new and edited turns, and those after them, are answered again."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from fake_task import Counter, UpperTask, install

from secbatch import probing
from secbatch.errors import InputError, JobError
from secbatch.job import Job
from secbatch.planning import plan_job
from secbatch.run_options import RunOptions
from secbatch.runner import run_job
from secbatch.store.pool import Pool
from secbatch.task_specs import Chat, Conversation, FillMask
from secbatch.tasks.chat_history import Turn
from secbatch.tasks.chat_reply import Reply
from secbatch.tasks.registry import build_task

TURNS_THAT_FIT = 3


@dataclass
class Asked:
    """What the model was asked, and whether it refuses some questions."""

    questions: list[str] = field(default_factory=list)
    refuses: str = "refuse"


asked = Asked()


class ChattyModel:
    """Answers with a digest of all that it sees, which are the last turns that fit."""

    notices: tuple[str, ...] = ()
    samples = False
    tokens = padding = 0

    def __init__(self, *_: Any) -> None:
        pass

    def fingerprint(self) -> str:
        return "chatty"

    def load(self) -> None:
        pass

    def render(self, conversations: Sequence[Sequence[Turn]]) -> list[Any]:
        return [_seen(list(turns)) for turns in conversations]

    def reply(self, rendered: Sequence["_Seen"], rows: Sequence[str]) -> list[Reply]:
        replies = []
        for one in rendered:
            asked.questions.append(one.turns[-1].question)
            if one.turns[-1].question in asked.refuses.split("|"):
                replies.append(Reply(None, 0, one.truncated, one.kept, "refused"))
            else:
                text = f"{zlib.crc32(repr(one.turns).encode()):08x}"
                replies.append(Reply(text, 1, one.truncated, one.kept))
        return replies


@dataclass
class _Seen:
    turns: list[Turn]
    truncated: bool

    @property
    def kept(self) -> int:
        return len(self.turns)


def _seen(turns: list[Turn]) -> _Seen:
    fitting = turns[-1:] if turns[-1].question == "long" else turns[-TURNS_THAT_FIT:]
    return _Seen(fitting, len(fitting) < len(turns))


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    install(monkeypatch)
    monkeypatch.setattr("secbatch.worker.build_task", build_task)
    monkeypatch.setattr("secbatch.tasks.chat.ChatModel", ChattyModel)
    monkeypatch.setattr("secbatch.runner.shard_rows_schedule", lambda job, cuda: (5,))
    asked.questions.clear()
    asked.refuses = "refuse"


def job(output: str = "out", id_columns: tuple[str, ...] = ("thread", "turn")) -> Job:
    chat = {"type": "chat", "model": "m", "text": "text", "conversation": {"id": "thread", "order": "turn"}}
    values = {
        "name": "test",
        "input": {"path": "in/*.csv", "id": list(id_columns)},
        "tasks": {"answer": chat},
        "output": {"path": output, "removed": "drop", "max_removed": "100%"},
        "max_rejects": "100%",
    }
    return Job.model_validate(values)


def at(given: Job, output: str) -> Job:
    return given.model_copy(update={"output": given.output.model_copy(update={"path": output})})


def write(conversations: dict[str, list[str]], name: str = "a.csv") -> None:
    Path("in").mkdir(exist_ok=True)
    rows = [f"{thread},{turn},{text}" for thread, texts in conversations.items() for turn, text in enumerate(texts)]
    (Path("in") / name).write_text("\n".join(["thread,turn,text", *rows, ""]))


def rows(output: str = "out") -> pd.DataFrame:
    columns = ["thread", "turn", "text", "answer", "answer_tokens", "answer_truncated", "secbatch_status"]
    seen = ds.dataset(f"{output}/data", partitioning="hive").to_table(columns=columns).to_pandas()
    return seen.sort_values(["thread", "turn"]).reset_index(drop=True)


def questions_of(**options: Any) -> list[str]:
    """What a run asks; it agrees with the plan, and its dataset with one that is made from nothing."""
    planned = plan_job(job()) if not options else None
    asked.questions.clear()
    result = run_job(job(), options=RunOptions(**options))
    questions = sorted(asked.questions)
    assert result.enriched == len(questions)
    if planned:
        assert (planned.todo_rows, planned.reused_rows) == (result.enriched, result.reused)
    agrees_with_a_fresh_one()
    return questions


def agrees_with_a_fresh_one() -> None:
    run_job(job("fresh").model_copy(update={"output": job("fresh").output.model_copy(update={"mode": "overwrite"})}))
    pd.testing.assert_frame_equal(rows(), rows("fresh"))


LONG = [f"question {n}" for n in range(6)]


@pytest.mark.parametrize("id_columns", [("thread", "turn"), ()])
def test_a_new_turn_costs_one_answer(id_columns: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "job", lambda output="out", given=job: given(output, id_columns))
    talks = {"a": LONG, "b": ["hello", "and now"], "c": ["one"]}
    write(talks)
    assert len(questions_of()) == 9
    assert questions_of() == []
    talks["a"] = [*LONG, "question 6"]
    talks["c"] = ["one", "two"]
    write(talks)
    assert questions_of() == ["question 6", "two"]
    talks["d"] = ["other"]
    write(talks)
    assert questions_of() == ["other"]


def test_an_edited_turn_costs_itself_and_those_after_it() -> None:
    talks = {"a": LONG, "b": ["hello", "and now"]}
    write(talks)
    questions_of()
    talks["a"] = [*LONG[:3], "edited", *LONG[4:]]
    write(talks)
    assert questions_of() == ["edited", "question 4", "question 5"]
    talks["a"] = [*LONG[:3], *LONG[4:]]  # a turn that goes moves those after it
    write(talks)
    assert questions_of() == ["question 4", "question 5"]


def test_turns_in_a_new_file_and_in_another_order_of_files() -> None:
    write({"a": LONG[:3], "b": ["hello"]}, "m.csv")
    assert len(questions_of()) == 4
    Path("in/z.csv").write_text("thread,turn,text\na,3,more\n")
    assert questions_of() == ["more"]
    Path("in/m.csv").rename("in/zz.csv")
    assert questions_of() == []
    Path("in/a.csv").write_text("thread,turn,text\na,1.5,between\n")
    assert questions_of() == ["between", "more", "question 2"]


def test_a_turn_without_an_answer_is_no_history_and_stays_so_until_it_is_retried() -> None:
    write({"a": ["hello", "refuse", "next"]})
    questions_of()
    write({"a": ["hello", "refuse", "next", "last"]})
    assert questions_of() == ["last"]
    asked.refuses = ""
    assert questions_of(retry=True) == ["last", "next", "refuse"]


def test_a_turn_without_an_answer_is_none_where_it_stands_now() -> None:
    write({"a": ["hello", "refuse", "next"]})
    write({"b": ["one"]}, "b.csv")
    questions_of()
    Path("in/a.csv").rename("in/c.csv")  # the other conversation of the shard stays where it is
    assert questions_of() == []
    write({"a": ["hello", "refuse"]}, "c.csv")
    run_job(job())
    asked.refuses = ""
    assert questions_of(retry=True) == ["refuse"]
    write({"a": ["hello", "refuse", "next"]}, "c.csv")
    assert questions_of() == ["next"]  # what was answered without the turn before it is not taken for its answer


@pytest.mark.parametrize("removed", ["drop", "keep"])
def test_an_answer_given_without_a_refused_turn_does_not_come_back_once_that_is_answered(
    removed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = job().model_copy(update={"output": job().output.model_copy(update={"removed": removed})})
    monkeypatch.setitem(globals(), "job", lambda output="out": at(given, output))

    def night(talk: list[str], **options: Any) -> list[str]:
        write({"a": talk})
        asked.questions.clear()
        run_job(job(), options=RunOptions(**options))
        return sorted(asked.questions)

    assert len(night(["hello", "refuse", "Refuse", "next"])) == 4
    night(["hello", "refuse", "Refuse"])  # the last turn is away for a while
    assert night(["hello", "refuse", "Refuse", "next"]) == []  # and nothing is new where it was
    night(["hello", "refuse", "Refuse"])
    asked.refuses = "Refuse"
    assert night(["hello", "refuse", "Refuse"], retry=True) == ["Refuse", "refuse"]
    assert night(["hello", "refuse", "Refuse", "next"]) == ["next"]
    agrees_with_a_fresh_one()
    night(["hello", "refuse", "Refuse"])
    asked.refuses = ""
    assert night(["hello", "refuse", "Refuse"], retry=True) == ["Refuse"]
    assert night(["hello", "refuse", "Refuse", "next"]) == ["next"]
    agrees_with_a_fresh_one()
    assert night(["hello", "refuse", "Refuse", "next"]) == []


def test_an_answer_of_an_overwritten_version_is_not_put_beside_what_was_given_without_it() -> None:
    asked.refuses = ""
    write({"a": ["hello", "refuse", "next"]})
    questions_of()
    asked.refuses = "refuse"
    given = job()
    run_job(given.model_copy(update={"output": given.output.model_copy(update={"mode": "overwrite"})}))
    asked.refuses = ""
    assert questions_of(retry=True) == ["next", "refuse"]


def test_what_two_conversations_of_a_row_do_without_is_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    other = job().tasks["answer"].model_copy(update={"text": "B {text}"})
    given = job().model_copy(update={"tasks": {"other": other, **job().tasks}})

    def night(note: str, *, turns: int = 4, **options: Any) -> list[str]:
        lines = ["thread,turn,text,note", "a,0,hello,x", f"a,1,one,{note}", "a,2,two,x", "a,3,next,x"][: turns + 1]
        Path("in").mkdir(exist_ok=True)
        Path("in/a.csv").write_text("\n".join([*lines, ""]))
        asked.questions.clear()
        run_job(given, options=RunOptions(**options))
        return sorted(asked.questions)

    asked.refuses = "one|B two"
    assert len(night("x")) == 8
    asked.refuses = ""
    assert night("y") == ["B next", "B two", "next", "one", "two"]  # what is rejected is asked again as another row
    monkeypatch.setitem(globals(), "job", lambda output="out": at(given, output))
    agrees_with_a_fresh_one()
    asked.refuses = "one|B one"
    run_job(given.model_copy(update={"output": given.output.model_copy(update={"mode": "overwrite"})}))
    night("y", turns=2)
    asked.refuses = "B one"
    assert night("y", turns=2, retry=True) == ["B one", "one"]
    assert night("y") == ["next", "two"]
    agrees_with_a_fresh_one()


def test_a_rejected_turn_that_one_conversation_has_asked_again_is_history_of_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = job().tasks["answer"].model_copy(update={"text": "B {text}"})
    parted = job().output.model_copy(update={"partition_by": ("day",)})
    given = job().model_copy(update={"tasks": {**job().tasks, "other": other}, "output": parted})
    monkeypatch.setitem(globals(), "job", lambda output="out": at(given, output))
    Path("in").mkdir()
    talk = "thread,turn,text,note,day\na,0,hello,x,mon\na,1,one,x,mon\na,2,two,x,mon\na,3,next,x,mon\n"
    Path("in/a.csv").write_text(talk)
    # As with row keys of earlier releases, which did not note turns that got no answer.
    monkeypatch.setattr(Pool, "unanswered", lambda *_: {})
    monkeypatch.setattr("secbatch.shard_stages.after_unanswered", lambda tasks, done, *_: done)
    asked.refuses = "B one|B two"
    run_job(job())
    asked.refuses = ""
    asked.questions.clear()
    Path("in/a.csv").write_text(talk.replace("a,1,one,x", "a,1,one,y"))
    run_job(job())  # the turn that was rejected is another row now
    assert sorted(asked.questions) == ["B next", "B one", "B two", "next", "two"]
    assert rows().secbatch_status.tolist() == ["ok"] * 4


@pytest.mark.parametrize("retry", [False, True])
def test_a_rejected_turn_that_asks_nothing_has_none_after_it_asked_again(
    monkeypatch: pytest.MonkeyPatch, retry: bool
) -> None:
    parted = job().output.model_copy(update={"partition_by": ("day",)})
    given = job().model_copy(update={"output": parted})
    monkeypatch.setitem(globals(), "job", lambda output="out": at(given, output))
    Path("in").mkdir()
    talk = "thread,turn,text,note,day\na,0,hello,x,mon\na,1, ,x,007\na,2,two,x,mon\na,3,refuse,x,mon\na,4,last,x,mon\n"
    Path("in/a.csv").write_text(talk)
    run_job(job())
    before = rows()
    asked.questions.clear()
    Path("in/a.csv").write_text(talk if retry else talk.replace("a,1, ,x", "a,1, ,y"))
    run_job(job(), options=RunOptions(retry=retry))
    assert sorted(asked.questions) == (["last", "refuse"] if retry else [])
    pd.testing.assert_frame_equal(rows(), before)
    assert rows().secbatch_status.tolist() == ["ok", "rejected", "ok", "rejected", "ok"]
    agrees_with_a_fresh_one()


def test_what_was_answered_for_a_row_that_another_task_rejects_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upper = Counter()

    def build(name: str, spec: Any, *rest: Any) -> Any:
        return build_task(name, spec, *rest) if isinstance(spec, Chat) else UpperTask(name, spec, upper)

    monkeypatch.setattr("secbatch.worker.build_task", build)
    given = job()

    def night(*more: str, **options: Any) -> list[str]:
        asked.questions.clear()
        added = {name: FillMask(type="fill-mask", model="m", text="text") for name in more}
        tasks = {**given.tasks, **added}
        run_job(given.model_copy(update={"tasks": tasks}), options=RunOptions(**options))
        return sorted(asked.questions)

    write({"a": ["hello", "poison", "next", "refuse", "last"]})
    assert len(night("up")) == 5
    before = rows()
    assert before.secbatch_status.tolist() == ["ok", "rejected", "ok", "rejected", "ok"]
    upper.rows = 0
    assert night("up", retry=True) == ["last", "refuse"] and upper.rows == 1
    assert night("up", "more") == ["last", "refuse"]  # for which there is nothing to be taken over
    pd.testing.assert_frame_equal(rows(), before)
    assert night() == ["last", "refuse"]
    assert rows().secbatch_status.tolist() == ["ok", "ok", "ok", "rejected", "ok"]


def test_what_a_question_without_an_answer_left_no_room_for_stays_forgotten() -> None:
    asked.refuses = "long"
    write({"a": ["hello", "and now", "long"]})
    questions_of()
    write({"a": ["hello", "and now", "long", "next"]})
    assert questions_of() == ["next"]
    assert rows().answer_truncated.tolist() == [False, False, None, True]


def test_a_turn_with_a_broken_value_is_no_history_of_the_later_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    scored = job().model_copy(update={"input": job().input.model_copy(update={"types": {"score": "float64"}})})
    monkeypatch.setitem(globals(), "job", lambda output="out": at(scored, output))
    Path("in").mkdir()

    def night(score: str) -> list[str]:
        talk = f"thread,turn,text,score\na,0,hello,1\na,1,and now,{score}\na,2,next,3\nb,0,one,1\n"
        Path("in/a.csv").write_text(talk)
        asked.questions.clear()
        run_job(job())
        questions = sorted(asked.questions)
        agrees_with_a_fresh_one()
        return questions

    assert len(night("2")) == 4
    assert night("high") == ["next"]  # it was answered with an answer before it that is there no longer
    assert night("none") == []
    assert night("4") == []  # all of it was done before
    assert night("high") == []


@pytest.mark.parametrize("name", ["a.csv", "renamed.csv"])
def test_an_answer_of_a_row_that_was_rejected_for_something_else_is_history(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parted = job().model_copy(update={"output": job().output.model_copy(update={"partition_by": ("day",)})})
    monkeypatch.setitem(globals(), "job", lambda output="out": at(parted, output))
    Path("in").mkdir()
    talk = "thread,turn,text,day\na,0,hello,mon\na,1,and now,007\na,2,refuse,tue\na,3,next,mon\n"
    Path("in/a.csv").write_text(talk)
    assert len(questions_of()) == 4
    Path("in/a.csv").unlink()
    (Path("in") / name).write_text(talk)
    assert questions_of() == []
    (Path("in") / name).write_text(f"{talk}a,4,last,mon\n")
    assert questions_of() == ["last"]
    seen = rows()
    assert seen.secbatch_status.tolist() == ["ok", "rejected", "rejected", "ok", "ok"]
    assert seen.answer.isna().tolist() == [False, False, True, False, False]


def test_without_row_keys_nothing_tells_which_turns_an_answer_was_given_after() -> None:
    write({"": ["alone"], "b": ["one"], "a": ["hello"]})
    assert len(questions_of()) == 3
    Path("in/b.csv").write_text("thread,turn,text\na,1,and now\n")
    Path("in/a.csv").rename("a.csv")
    run_job(job(), options=RunOptions(partial=True))  # as `--input in/b.csv`: an answer without what stands in a.csv
    Path("a.csv").rename("in/a.csv")
    for keys in Path("out/_secbatch/keys").rglob("*.keys"):
        keys.unlink()
    asked.questions.clear()
    notices = run_job(job()).notices
    assert sorted(asked.questions) == ["and now", "hello", "one"]
    assert sum("which turns an answer in a conversation was given after" in text for text in notices) == 1
    agrees_with_a_fresh_one()
    assert questions_of() == []


def break_off(monkeypatch: pytest.MonkeyPatch, at: Callable[[list[str]], bool]) -> None:
    """A run that fails before it asks questions of which `at` says so."""
    reply = ChattyModel.reply

    def failing(self: ChattyModel, rendered: Any, ids: Any) -> list[Reply]:
        if at([one.turns[-1].question for one in rendered]):
            raise RuntimeError("stop")
        return reply(self, rendered, ids)

    with monkeypatch.context() as patch:
        patch.setattr(ChattyModel, "reply", failing)
        with pytest.raises(RuntimeError):
            run_job(job())


def test_row_keys_that_are_lost_while_a_run_is_stopped_lose_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    talks = {name: [f"{name} {n}" for n in range(4)] for name in "abcdef"}
    write(talks)
    questions_of()
    talks["b"][3], talks["f"][3] = "edited b", "edited f"
    write(talks)
    break_off(monkeypatch, lambda questions: "edited f" in questions)
    assert list(Path("out/_secbatch/checkpoints").iterdir())
    for keys in Path("out/_secbatch/keys").rglob("*.keys"):
        keys.unlink()
    asked.questions.clear()
    run_job(job())
    assert "edited f" in asked.questions and "edited b" not in asked.questions
    agrees_with_a_fresh_one()


def test_an_interrupted_run_takes_over_the_answers_of_its_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    talks = {name: [f"{name} {n}" for n in range(4)] for name in "abcdef"}
    write(talks)
    break_off(monkeypatch, lambda _: len(asked.questions) >= 12)
    assert len(asked.questions) == 12
    talks["a"].append("a 4")  # the rest is for the next night
    write(talks)
    done = questions_of()
    assert len(done) == 17 and "a 4" in done and "a 3" not in done


def test_the_probe_of_a_plan_has_the_turns_before(monkeypatch: pytest.MonkeyPatch) -> None:
    write(dict.fromkeys("abcdefgh", LONG))
    seen: list[int] = []
    reply = ChattyModel.reply

    def watched(self: ChattyModel, rendered: Any, ids: Any) -> list[Reply]:
        seen.extend(one.kept for one in rendered)
        return reply(self, rendered, ids)

    monkeypatch.setattr(ChattyModel, "reply", watched)
    monkeypatch.setattr(probing, "ROWS", 12)
    plan = plan_job(job())
    assert plan.todo_rows == 48 and max(seen) == TURNS_THAT_FIT


@pytest.mark.parametrize("talks", ["a", "ab", "abcdefgh"])
def test_a_plan_asks_the_first_turns_of_a_long_conversation(talks: str) -> None:
    write({talk: [f"{talk} {turn}" for turn in range(500)] for talk in talks})
    plan = plan_job(job())
    assert plan.todo_rows == 500 * len(talks) and plan.seconds
    assert probing.ROWS <= len(asked.questions) <= 2 * probing.ROWS + probing.WARMING_ROWS
    assert set(asked.questions) <= {f"{talk} {turn}" for talk in talks for turn in range(probing.ROWS)}


@pytest.mark.parametrize("column", ["id", "order"])
def test_a_column_that_does_not_do_is_named_with_the_task(column: str) -> None:
    Path("in").mkdir()
    values = {"thread": ["a"], "turn": [0], "text": ["hello"], {"id": "thread", "order": "turn"}[column]: [{"x": 1}]}
    pq.write_table(pa.table(values), "in/a.parquet")
    given = job(id_columns=("text",))
    given = given.model_copy(update={"input": given.input.model_copy(update={"path": "in/*.parquet"})})
    with pytest.raises(InputError, match=rf"^tasks.answer.conversation.{column}: a column of type struct"):
        run_job(given)


def test_two_ways_to_group_conversations_are_refused() -> None:
    write({"a": ["first"]})
    given = job()
    other = given.tasks["answer"].model_copy(update={"conversation": Conversation(id="text", order="turn")})
    given = given.model_copy(update={"tasks": {**given.tasks, "other": other}})
    with pytest.raises(JobError, match="Two chat tasks group conversations by different columns"):
        run_job(given)


@pytest.mark.parametrize("flush", [100, 32 << 20])  # spilled to disk, and held in memory
@pytest.mark.parametrize("read", [3, 19, 16_384])  # rows at a time: the last one alone, or all
def test_the_later_row_of_the_input_counts_in_whichever_conversation_and_shard(
    read: int, flush: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secbatch.preparing.LARGEST", read)
    monkeypatch.setattr("secbatch.sources.grouped.FLUSH_BYTES", flush)
    monkeypatch.setattr("secbatch.runner.shard_rows_schedule", lambda job, cuda: (2, 2, 0))
    Path("in").mkdir()
    talks = "".join(f"{talk}{turn},{talk},{turn},{talk} {turn}\n" for talk in "cdef" for turn in range(3))
    Path("in/a.csv").write_text(
        "n,thread,turn,text\n1,a,0,first\n2,b,0,old of 2\n3,b,1,second\n4,a,5,old of 4\n"
        f"{talks}2,a,1,new of 2\n4,a,2,new of 4\n5,f,0,old of 5\n5,c,9,new of 5\n"
    )
    given = job(id_columns=("n",))
    planned, result = plan_job(given), run_job(given)
    assert (result.read, result.enriched, result.superseded) == (20, 17, 3)
    assert (planned.rows, planned.todo_rows, planned.superseded) == (20, 17, 3)
    seen = rows()
    assert not seen.text.str.startswith("old").any() and seen.text.str.startswith("new").sum() == 3
    assert seen[seen.thread == "a"].text.tolist() == ["first", "new of 2", "new of 4"]
    # Nothing of a replaced row is history, whatever the shards are.
    monkeypatch.setattr("secbatch.runner.shard_rows_schedule", lambda job, cuda: (100,))
    run_job(job("fresh", id_columns=("n",)))
    pd.testing.assert_frame_equal(rows(), rows("fresh"))
    again = run_job(given)
    assert (again.read, again.enriched, again.reused, again.superseded) == (20, 0, 17, 3)
