"""Chat through an endpoint, against a server of this test's own on 127.0.0.1."""

import _thread
import asyncio
import json
import logging
import os
import pickle
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pandas as pd
import pyarrow as pa
import pytest
from pydantic import ValidationError

from secbatch.cli.plan_lines import plan_lines
from secbatch.cli.run_lines import run_lines
from secbatch.errors import EXIT_FAILURE, EXIT_REJECTS, Interrupted, JobError, ModelError
from secbatch.job import Job
from secbatch.models import generation_endpoint, generation_endpoint_throttle
from secbatch.models.generation_endpoint import pause
from secbatch.models.generation_endpoint_response import Failure, wish
from secbatch.models.generation_endpoint_throttle import Throttle
from secbatch.planning import plan_job
from secbatch.preparing import set_up
from secbatch.probing import WARMING_ROWS
from secbatch.run_options import RunOptions
from secbatch.runner import run_job
from secbatch.shards import input_shards
from secbatch.task_specs import Chat
from secbatch.tasks import chat_endpoint
from secbatch.tasks.base import TaskColumns
from secbatch.tasks.chat_endpoint_task import EndpointChatTask
from secbatch.work_done import WorkDone

KEY = "sk-very-secret-4711"
Script = Callable[["Server", dict[str, Any]], tuple[int, Any]]


def said(text: str, **usage: int) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}


def last(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


class Server(ThreadingHTTPServer):
    """Answers what its `script` says: (status, JSON value or raw bytes), and keeps the requests."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: Script = lambda server, body: (200, said(f"to {last(body)}", completion_tokens=3, prompt_tokens=4))
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.connections: set[int] = set()  # ports that requests came from
        self.retry_after: str | None = None
        self.surplus = b""  # sent behind each response
        self.most_at_once = self.at_once = 0
        self.guard = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # of a client that has given up
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with server.guard:
            server.connections.add(self.client_address[1])
            server.bodies.append(body)
            server.paths.append(self.path)
            server.headers.append({name.lower(): value for name, value in self.headers.items()})
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        status, value = server.script(server, body)
        with server.guard:
            server.at_once -= 1
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        try:
            self.send_response(status)
            if server.retry_after is not None:
                self.send_header("Retry-After", server.retry_after)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content + server.surplus)
        except OSError:
            self.close_connection = True  # the client has given up

    def log_message(self, *_: Any) -> None:
        pass


read_certificates = httpx2.create_ssl_context


@cache
def certificates(*_named: str | None) -> ssl.SSLContext:
    """Those that the environment names, read once: to read them takes longer than most of these tests."""
    return read_certificates()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(generation_endpoint, "FIRST_PAUSE", 0.01)
    named = ("SSL_CERT_FILE", "SSL_CERT_DIR")
    monkeypatch.setattr("httpx2.create_ssl_context", lambda: certificates(*map(os.environ.get, named)))
    one = Server()
    thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield one
    one.shutdown()
    one.server_close()
    thread.join()


def task(url: str, columns: Any = ("question",), **spec: Any) -> EndpointChatTask:
    values = {"type": "chat", "model": "big-model", "text": "question", "endpoint": url, "retries": 2} | spec
    schema = pa.schema([(name, pa.string()) for name in columns])
    return EndpointChatTask("answer", Chat.model_validate(values), schema)


def run(one: EndpointChatTask, **columns: Any) -> TaskColumns:
    table = pa.table(columns)
    one.load()
    ids = pa.array([f"row-{n}" for n in range(len(table))])
    done = one.finish(one.compute(one.encode(table, ids, pa.array([True] * len(table)))))
    assert [column.type for column in done.columns.values()] == [field.type for field in one.fields]
    assert {len(column) for column in done.columns.values()} == {len(table)}
    return done


def answers(done: TaskColumns) -> list[str | None]:
    return list(done.columns["answer"].to_pylist())


def test_each_question_gets_its_answer_in_order(server: Server) -> None:
    def script(server: Server, body: dict[str, Any]) -> tuple[int, Any]:
        time.sleep(0.02 * (int(last(body).split()[-1]) % 3))
        return 200, said(f"to {last(body)}", completion_tokens=5, prompt_tokens=7)

    server.script = script
    questions = [f"question {n}" for n in range(40)]
    done = run(task(server.url, concurrency=8), question=[*questions, None, " ", "question 7"])
    assert answers(done)[:40] == [f"to {question}" for question in questions]
    assert answers(done)[40:] == [None, None, "to question 7"]
    assert len(server.bodies) == 40  # equal questions are asked once
    assert 1 < server.most_at_once <= 8
    assert done.columns["answer_tokens"].to_pylist()[:40] == [5] * 40
    assert done.columns["answer_truncated"].to_pylist()[:41] == [False] * 40 + [None]
    assert done.tokens == 40 * 12 and done.errors == {}


def test_what_is_sent_is_what_the_job_says(server: Server) -> None:
    run(task(server.url, prompt="Sec: {text}", system="Be brief.", generation={"max_new_tokens": 9}), question=["Why?"])
    assert server.paths == ["/v1/chat/completions"]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Sec: Why?"}]
    assert server.bodies == [{"model": "big-model", "messages": messages, "max_tokens": 9, "temperature": 0}]
    assert "authorization" not in server.headers[0]
    sampling = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "seed": 3}
    run(task(server.url, generation=sampling), question=["Why?", "Why?"])
    sampled = server.bodies[1:]
    assert {body["temperature"] for body in sampled} == {0.7} and {body["top_p"] for body in sampled} == {0.9}
    # equal questions are asked anew, each with its row's seed, and the same in every run
    assert len({body["seed"] for body in sampled}) == 2
    run(task(server.url, generation=sampling), question=["Why?", "Why?"])
    assert {body["seed"] for body in server.bodies[3:]} == {body["seed"] for body in sampled}


def test_turns_see_the_turns_before_them(server: Server) -> None:
    one = task(server.url, ("question", "thread", "turn"), conversation={"id": "thread", "order": "turn"})
    done = run(one, question=["a", "b", "c", "x"], thread=["1", "1", "1", "2"], turn=["1", "2", "3", "1"])
    assert answers(done) == ["to a", "to b", "to c", "to x"]
    third = next(body for body in server.bodies if last(body) == "c")
    assert [message["content"] for message in third["messages"]] == ["a", "to a", "b", "to b", "c"]


def test_a_conversation_that_does_not_fit_loses_its_oldest_turns_and_says_so(server: Server) -> None:
    def script(server: Server, body: dict[str, Any]) -> tuple[int, Any]:
        if len(body["messages"]) > 3 or last(body) == "endless":
            error = {"message": "This model's maximum context length is 20 tokens.", "code": "context_length_exceeded"}
            return 400, {"error": error}
        return 200, said(f"to {last(body)}")

    server.script = script
    one = task(server.url, ("question", "thread", "turn"), conversation={"id": "thread", "order": "turn"})
    done = run(one, question=[*"abcd", "endless"], thread=["1"] * 4 + ["2"], turn=list("12345"))
    assert answers(done) == ["to a", "to b", "to c", "to d", None]
    assert done.columns["answer_truncated"].to_pylist() == [False, False, True, True, None]
    assert done.columns["answer_tokens"].to_pylist() == [None] * 5  # the server did not count
    assert list(done.errors) == [4] and "maximum context length" in done.errors[4]
    fourth = [body for body in server.bodies if last(body) == "d"][-1]
    assert [message["content"] for message in fourth["messages"]] == ["c", "to c", "d"]


@pytest.mark.parametrize(
    "trouble",
    [
        (429, {"error": {"message": "slow down"}}),
        (500, b"oops"),
        (503, b""),
        (200, b"<html>"),
        (200, {"choices": []}),
        (200, {"choices": [{"message": "a role"}]}),
        (200, {"choices": [said("half an ans")["choices"][0] | {"finish_reason": "error"}]}),
        (200, {"choices": [said("")["choices"][0] | {"error": {"message": "no", "code": 502}}]}),
        (202, b""),
    ],
)
def test_what_passes_is_tried_again(server: Server, trouble: tuple[int, Any]) -> None:
    seen: dict[str, int] = {}

    def script(server: Server, body: dict[str, Any]) -> tuple[int, Any]:
        with server.guard:
            seen[last(body)] = seen.get(last(body), 0) + 1
        return trouble if seen[last(body)] < 3 else (201, said(f"to {last(body)}"))

    server.script = script
    done = run(task(server.url), question=["a", "b"])
    assert answers(done) == ["to a", "to b"] and done.errors == {}
    assert seen == {"a": 3, "b": 3}


def test_a_slow_answer_is_tried_again(server: Server) -> None:
    def script(server: Server, body: dict[str, Any]) -> tuple[int, Any]:
        if len(server.bodies) == 1:
            time.sleep(1.5)
        return 200, said("now")

    server.script = script
    done = run(task(server.url, timeout=0.5), question=["a"])
    assert answers(done) == ["now"] and len(server.bodies) == 2


def test_a_record_of_tls_that_is_damaged_on_its_way_is_tried_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = httpx2.AsyncHTTPTransport.handle_async_request
    damage = [ssl.SSLError(1, "[SSL: DECRYPTION_FAILED_OR_BAD_RECORD_MAC] decryption failed or bad record mac")]

    async def damaged(transport: httpx2.AsyncHTTPTransport, request: httpx2.Request) -> httpx2.Response:
        response = await asked(transport, request)
        if damage:
            raise damage.pop()  # as the client hands it on
        return response

    monkeypatch.setattr(httpx2.AsyncHTTPTransport, "handle_async_request", damaged)
    done = run(task(server.url), question=["a", "b"])
    assert answers(done) == ["to a", "to b"] and done.errors == {} and len(server.bodies) == 3


def test_connections_are_kept(server: Server) -> None:
    server.script = lambda server, body: (time.sleep(0.02) or 200, said("yes"))
    done = run(task(server.url, concurrency=4), question=[f"q{n}" for n in range(40)])
    assert answers(done) == ["yes"] * 40 and server.most_at_once == 4 == len(server.connections)


def test_there_are_no_more_connections_than_files_may_be_open(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_endpoint, "room_for", lambda wanted: min(wanted, 3))
    server.script = lambda server, body: (time.sleep(0.02) or 200, said("yes"))
    one = task(server.url, concurrency=8)
    assert answers(run(one, question=[f"q{n}" for n in range(20)])) == ["yes"] * 20 and server.most_at_once == 3
    assert any("3 requests at a time, and not 8" in notice for notice in one.notices)
    assert not task(server.url, concurrency=3).notices


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("surplus", ["a second response", "a line feed"])
def test_what_a_server_sends_behind_its_answer_is_no_answer_to_the_next_question(
    server: Server, concurrency: int, surplus: str
) -> None:
    body = json.dumps(said("to another question")).encode()
    response = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    server.surplus = response if surplus == "a second response" else b"\r\n"
    questions = [f"q{n}" for n in range(24)]
    done = run(task(server.url, concurrency=concurrency, retries=0), question=questions)
    assert answers(done) == [f"to {question}" for question in questions] and done.errors == {}
    assert len(server.bodies) <= 24 + concurrency  # those on connections that were kept until the first surplus


def test_a_server_that_takes_two_at_a_time_gets_few(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation_endpoint_throttle, "SETTLING", 0.03)
    room = threading.Semaphore(2)

    def script(server: Server, body: dict[str, Any]) -> tuple[int, Any]:
        if not room.acquire(blocking=False):
            return 429, b""
        time.sleep(0.05)
        room.release()
        return 200, said("yes")

    server.script = script
    done = run(task(server.url, concurrency=20, retries=12), question=[f"q{n}" for n in range(60)])
    assert answers(done) == ["yes"] * 60 and done.errors == {}
    assert len(server.bodies) < 60 * 4  # 20 at a time would be refused nine times of ten


def test_the_throttle_halves_once_a_second_and_opens_again() -> None:
    async def limits() -> list[float]:
        throttle = Throttle(64)
        throttle.too_many()
        throttle.too_many()
        seen = [throttle.limit]
        async with throttle:
            throttle.limit = 1.0
            waiting = asyncio.ensure_future(throttle.__aenter__())
            await asyncio.sleep(0)
            assert not waiting.done()
        await asyncio.wait_for(waiting, 5)
        seen.append(throttle.limit)
        for _ in range(500):
            throttle.answered()
        return [*seen, throttle.limit]

    assert asyncio.run(limits()) == [32.0, 1.0, 64.0]


def test_a_flaky_endpoint_rejects_one_row_and_does_not_end_the_run(server: Server) -> None:
    def script(server: Server, body: dict[str, Any]) -> tuple[int, Any]:
        hello = sum(last(body) == "Hello" for body in server.bodies)
        return (502, b"<html>") if last(body) == "bad" or (last(body) == "Hello" and hello < 3) else (200, said("yes"))

    server.script = script
    done = run(task(server.url, concurrency=1, retries=1), question=["bad"])
    assert answers(done) == [None]
    assert done.errors[0].startswith("Task 'answer': the endpoint answers other questions, but not this one (2 tries")
    assert [last(body) for body in server.bodies] == ["bad"] * 2 + ["Hello"] * 3


def test_retry_after_is_honoured(server: Server) -> None:
    times: list[float] = []

    def script(server: Server, body: dict[str, Any]) -> tuple[int, Any]:
        times.append(time.monotonic())
        return (429, b"") if len(times) == 1 else (200, said("now"))

    server.script, server.retry_after = script, "1"
    assert answers(run(task(server.url), question=["a"])) == ["now"]
    assert times[1] - times[0] >= 1


def test_requests_that_wait_for_their_turn_keep_to_a_pause_that_others_are_asked_for(server: Server) -> None:
    times: list[float] = []

    def script(server: Server, body: dict[str, Any]) -> tuple[int, Any]:
        with server.guard:
            times.append(time.monotonic())
            return (429, b"") if len(times) <= 12 else (200, said("now"))

    server.script, server.retry_after = script, "1"
    done = run(task(server.url, concurrency=8, retries=6), question=[f"q{n}" for n in range(8)])
    assert answers(done) == ["now"] * 8 and len(times) == 20
    # eight, and after a second four of them, which leaves four others waiting
    assert times[12] - times[11] > 0.8


def test_pauses_grow_within_bounds() -> None:
    pauses = [[pause(number, Failure("")) for _ in range(50)] for number in (0, 3, 40)]
    assert all(0.25 <= pause <= 0.5 for pause in pauses[0])
    assert all(2 <= pause <= 4 for pause in pauses[1])
    assert all(15 <= pause <= 30 for pause in pauses[2])
    assert len({round(pause, 6) for pause in pauses[0]}) > 10
    assert pause(0, Failure("", 100.0)) == 100 and pause(0, Failure("", 1e9)) == 300
    assert wish("12") == 12 and wish(None) is None and wish("soon") is None
    assert wish("inf") is None and wish("nan") is None and wish("1e999") is None
    assert wish("Wed, 21 Oct 2015 07:28:00 GMT") == 0


def test_a_row_that_the_endpoint_refuses_is_rejected_alone(server: Server) -> None:
    def script(server: Server, body: dict[str, Any]) -> tuple[int, Any]:
        if last(body) == "bad":
            return 400, {"error": {"message": f"no\x1b[31m way {KEY}\nreally."}}
        return (500, b"crash") if last(body) == "poison" else (200, said("fine"))

    server.script = script
    done = run(task(server.url), question=["good", "bad", "poison"])
    assert answers(done) == ["fine", None, None]
    assert done.errors[1].startswith("Task 'answer': the endpoint refuses it (HTTP 400: no [31m way")
    assert done.errors[2] == (
        "Task 'answer': the endpoint answers other questions, but not this one (3 tries, the last one: HTTP 500)."
    )


def test_keys_of_others_in_what_a_server_says_stay_out_of_the_reason(server: Server) -> None:
    said_so = "http://gate:s3cret@gpu-9/v1?key=4711 refuses Bearer abc.def today"
    server.script = lambda server, body: (
        (400, {"error": {"message": said_so}}) if last(body) == "bad" else (200, said("fine"))
    )
    done = run(task(server.url), question=["bad", "good"])
    shown = "http://***@gpu-9/v1?key=*** refuses Bearer *** today"
    assert done.errors == {0: f"Task 'answer': the endpoint refuses it (HTTP 400: {shown})."}


@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.parametrize("place", [0, 2])
def test_a_firewall_that_takes_a_text_for_an_attack_does_not_end_the_run(
    server: Server, status: int, place: int
) -> None:
    attack = "What does <script>alert(1)</script> do?"
    server.script = lambda server, body: (status, b"<html>") if last(body) == attack else (200, said("fine"))
    done = run(task(server.url, concurrency=1), question=[*"ab"[:place], attack, *"cd"])
    assert answers(done) == ["fine"] * place + [None, "fine", "fine"]
    assert done.errors == {place: f"Task 'answer': the endpoint refuses it (HTTP {status})."}


def test_texts_that_a_firewall_refuses_at_one_time_do_not_wait_for_each_other(server: Server) -> None:
    """Each would ask the shortest question for itself, one after another, and hold its place meanwhile."""
    together = threading.Barrier(8)

    def script(server: Server, body: dict[str, Any]) -> tuple[int, Any]:
        if last(body).startswith("attack"):
            together.wait(20)
            return 403, b"<html>"
        if last(body) == "Hello":
            time.sleep(0.3)
        return 200, said("fine")

    server.script = script
    done = run(task(server.url, concurrency=8), question=[f"attack {n}" for n in range(8)])
    assert done.errors == dict.fromkeys(range(8), "Task 'answer': the endpoint refuses it (HTTP 403).")
    assert sum(last(body) == "Hello" for body in server.bodies) <= 3


@pytest.mark.parametrize(
    "refusal",
    [
        {"detail": "Server is pinned to 'a'; requested 'big-model'."},  # `transformers serve`
        {"error": {"message": "max_tokens=300 cannot be greater than max_model_len=256.", "code": 400}},  # vLLM
    ],
)
def test_what_is_refused_to_all_ends_the_run_instead_of_rejecting_each_row(server: Server, refusal: Any) -> None:
    server.script = lambda server, body: (400, refusal)
    with pytest.raises(ModelError, match=r"refuses even the shortest question .*(pinned|max_model_len).*big-model"):
        run(task(server.url, concurrency=1), question=["a", "b", "c"])
    assert [last(body) for body in server.bodies] == ["a", "Hello"]


def test_the_limit_of_new_tokens_is_given_by_the_name_that_the_server_knows(server: Server) -> None:
    def script(server: Server, body: dict[str, Any]) -> tuple[int, Any]:
        if "max_tokens" in body:
            error = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'."
            return 400, {"error": {"message": error, "code": "unsupported_parameter"}}
        return 200, said(f"{body['max_completion_tokens']} for {last(body)}")

    server.script = script
    done = run(task(server.url, concurrency=2, generation={"max_new_tokens": 9}), question=["a", "b", "c", "d"])
    assert answers(done) == [f"9 for {letter}" for letter in "abcd"]
    assert sum("max_tokens" in body for body in server.bodies) <= 2


def test_a_question_that_does_not_fit_keeps_its_end(server: Server) -> None:
    def script(server: Server, body: dict[str, Any]) -> tuple[int, Any]:
        if len(last(body)) > 500:
            return 400, {"error": {"message": "maximum context length is 100 tokens"}}
        return 200, said(last(body)[-9:])

    server.script = script
    done = run(task(server.url), question=["x" * 4000 + " the end.", "short one"])
    assert answers(done) == ["the end.", "short one"]
    assert done.columns["answer_truncated"].to_pylist() == [True, False] and done.errors == {}
    kept = [len(last(body)) for body in server.bodies if last(body).endswith("the end.")]
    assert 350 <= kept[-1] <= 500 < kept[-2]


ANSWERS: list[tuple[Any, str | None, str | None]] = [
    (
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Yes."}]},
        "Yes.",
        None,
    ),
    ({"role": "assistant"}, None, "gave no text as an answer (finish_reason: stop)"),
    ({"role": "assistant", "content": None, "refusal": "I cannot."}, None, "gave no answer (I cannot.)"),
    (
        {"role": "assistant", "content": None, "reasoning_content": "So"},
        None,
        "to no answer after its reasoning within",
    ),
    # an empty text in the place of null
    (
        {"role": "assistant", "content": "", "reasoning_content": "So"},
        None,
        "to no answer after its reasoning within",
    ),
    ({"role": "assistant", "content": " \n", "reasoning": "So"}, None, "no text as an answer (finish_reason: stop)"),
    ({"role": "assistant", "content": "", "refusal": "I cannot."}, None, "gave no answer (I cannot.)"),
    ({"role": "assistant", "content": "", "refusal": None, "reasoning": ""}, "", None),
    ({"role": "assistant", "content": f"my key is {KEY}"}, "my key is ***", None),
]


@pytest.mark.parametrize(("message", "answer", "error"), ANSWERS)
def test_servers_answer_in_many_forms(
    server: Server, message: Any, answer: str | None, error: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENDPOINT_KEY", KEY)
    finish = "length" if "reasoning_content" in message else "stop"
    server.script = lambda server, body: (200, {"choices": [{"message": message, "finish_reason": finish}]})
    done = run(task(server.url, api_key_env="ENDPOINT_KEY"), question=["a"])
    assert answers(done) == [answer]
    assert (error is None and done.errors == {}) or (error is not None and error in done.errors[0])


@pytest.mark.parametrize(("finish", "reason"), [("length", "to no answer within"), ("content_filter", "filter)")])
def test_an_answer_of_which_nothing_is_left_is_none(server: Server, finish: str, reason: str) -> None:
    choice = said("")["choices"][0] | {"finish_reason": finish}
    server.script = lambda server, body: (200, {"choices": [choice]})
    done = run(task(server.url), question=["a"])
    assert answers(done) == [None] and reason in done.errors[0]


def test_answers_are_cleaned_and_broken_ones_are_no_answers(server: Server) -> None:
    contents = {"a": " \x1b[31mred\u202e \n", "b": None, "c": "half \ud800 a character", "d": ""}
    server.script = lambda server, body: (200, {"choices": [{"message": {"content": contents[last(body)]}}]})
    done = run(task(server.url), question=list("abcd"))
    assert answers(done) == ["[31mred", None, "half ? a character", ""]
    assert done.errors == {1: "Task 'answer': the endpoint gave no text as an answer."}


@pytest.mark.parametrize("trouble", [(500, b""), (429, b""), (200, b"no JSON")])
def test_a_dead_endpoint_ends_the_run(server: Server, trouble: tuple[int, Any]) -> None:
    server.script = lambda server, body: trouble
    with pytest.raises(ModelError, match=r"does not work \(3 tries, the last one: .+\); what is done is kept"):
        run(task(server.url), question=["a", "b", "c"])
    server.shutdown()
    server.server_close()
    with pytest.raises(ModelError, match="no connection"):
        run(task(server.url, retries=1), question=["a"])


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:9", "socksio"),  # which no extra installs
        ("HTTP_PROXY", "foo://127.0.0.1", "Unknown scheme"),
        ("HTTP_PROXY", "http://user:S3CRET/x@127.0.0.1", "an address is none"),
        ("SSL_CERT_FILE", "nowhere.pem", "No such file"),
        ("SSL_CERT_FILE", __file__, "certificate"),
    ],
)
def test_a_proxy_or_certificates_that_cannot_be(
    server: Server, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, reason: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ModelError, match=r"cannot be asked with the proxy .* HTTPS_PROXY, ALL_PROXY") as raised:
        run(task(server.url), question=["a"])
    assert reason in str(raised.value) and "S3CRET" not in str(raised.value)


def test_a_proxy_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation_endpoint, "FIRST_PAUSE", 0.01)
    monkeypatch.setenv("http_proxy", "127.0.0.1:9")  # nothing listens there
    with pytest.raises(ModelError, match=r"no connection \(.+; by the proxy that http_proxy names\)\)"):
        run(task("http://gpu.example/v1", retries=0), question=["a"])
    monkeypatch.setenv("no_proxy", "gpu.example")
    with pytest.raises(ModelError, match="no connection") as raised:
        run(task("http://gpu.example/v1", retries=0), question=["a"])
    assert "proxy" not in str(raised.value)


def test_a_proxy_that_wants_a_password_is_not_the_endpoint(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.script = lambda server, body: (407, b"")
    monkeypatch.setenv("http_proxy", f"127.0.0.1:{server.server_port}")
    with pytest.raises(ModelError, match=r"a proxy asks for .* \(HTTP 407; by the proxy that http_proxy names\)"):
        run(task("http://gpu.example/v1"), question=["a"])


def test_a_name_that_no_host_can_have_ends_the_run() -> None:
    with pytest.raises(ModelError, match=r"endpoint http://é\.\.x/v1 is no address"):
        run(task("http://é..x/v1"), question=["a"])


@pytest.mark.parametrize("status", [401, 403, 404, 302])
def test_refusals_of_everything_end_the_run_without_the_key(
    server: Server, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENDPOINT_KEY", KEY)
    server.script = lambda server, body: (status, {"error": {"message": f"bad key {KEY}"}})
    with pytest.raises(ModelError) as raised:
        run(task(server.url, api_key_env="ENDPOINT_KEY"), question=["a", "b", "c"])
    assert KEY not in str(raised.value)
    expected = {404: "no chat completions for model big-model", 302: "redirects to another address (HTTP 302)"}
    assert expected.get(status, "ENDPOINT_KEY") in str(raised.value)
    assert len(server.bodies) <= 6  # nothing is tried again, but for the shortest question


def test_the_key_comes_from_the_environment_and_stays_out_of_everything(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="ENDPOINT_KEY, which api_key_env names, is not set"):
        task(server.url, api_key_env="ENDPOINT_KEY")
    monkeypatch.setenv("ENDPOINT_KEY", KEY)
    assert KEY.encode() not in pickle.dumps(task(server.url, api_key_env="ENDPOINT_KEY"))
    hidden = f"{KEY[:5]}\x07{KEY[5:9]}\u202e{KEY[9:]}"  # whole once what steers a terminal is left out
    script = {
        "q3": (400, {"error": {"message": f"key {KEY} may not"}}),
        "q4": (400, {"error": {"message": f"key {hidden} may not"}}),
        "q5": (200, said(f"your key is {hidden}")),
    }
    server.script = lambda server, body: script.get(last(body), (200, said("yes")))
    with caplog.at_level(logging.DEBUG):
        result = run_job(job(server, api_key_env="ENDPOINT_KEY", rows=6))
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert result.rejected == 2 and KEY not in caplog.text
    assert table()["answer"].tolist()[5] == "your key is ***"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5 and not [path for path in files if KEY.encode() in path.read_bytes()]


def job(server: Server, rows: int, **spec: Any) -> Job:
    lines = "\n".join(f"{n},q{n}" for n in range(rows))
    Path("in.csv").write_text(f"n,question\n{lines}\n")
    chat = {"type": "chat", "model": "big-model", "text": "question", "endpoint": server.url, "retries": 1} | spec
    values = {"name": "test", "input": {"path": "in.csv"}, "tasks": {"answer": chat}, "output": {"path": "out"}}
    return Job.model_validate(values)


def table() -> pd.DataFrame:
    return pd.read_parquet("out/data").sort_values("secbatch_row")


def test_a_run_that_lost_its_endpoint_goes_on_where_it_stopped(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("secbatch.runner.shard_rows_schedule", lambda job, cuda: (4,))
    answer = server.script

    def script(server: Server, body: dict[str, Any]) -> tuple[int, Any]:
        return answer(server, body) if len(server.bodies) <= 8 else (503, b"")

    server.script = script
    with pytest.raises(ModelError, match="does not work") as raised:
        run_job(job(server, rows=20, concurrency=1))
    assert raised.value.exit_code == EXIT_FAILURE
    asked = {last(body) for body in server.bodies[:8]}
    server.bodies.clear()
    server.script = answer
    result = run_job(job(server, rows=20, concurrency=7))  # how it is asked changes no answer
    assert (result.exit_code, result.reused) == (0, 8)
    assert table()["answer"].tolist() == [f"to q{n}" for n in range(20)]
    assert sorted(last(body) for body in server.bodies) == sorted({f"q{n}" for n in range(20)} - asked)
    record = json.loads(Path("out/_secbatch/runs/latest.json").read_text())
    model = record["models"]["answer"]
    assert (model["model"], model["weights"], model["revision"]) == ("big-model", None, None)
    assert (record["device"], record["precision"]) == ("endpoint", "")
    assert ("Device", "endpoint") in run_lines(result, job(server, rows=20), single_file=False)
    assert ("Device", "endpoint") in plan_lines(plan_job(job(server, rows=21)))


def test_a_plan_asks_as_many_at_a_time_as_a_run(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = server.script

    def script(server: Server, body: dict[str, Any]) -> tuple[int, Any]:
        deadline = time.monotonic() + 5
        while len(server.bodies) > WARMING_ROWS and server.most_at_once < 40 and time.monotonic() < deadline:
            time.sleep(0.01)
        return answer(server, body)

    server.script = script
    assert plan_job(job(server, rows=100, concurrency=40)).probed_rows == 100 - WARMING_ROWS
    assert server.most_at_once == 40


def test_the_server_is_kept_busy_over_the_ends_of_shards(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("secbatch.runner.shard_rows_schedule", lambda job, cuda: (4,))
    late, answer = threading.Event(), server.script

    def script(server: Server, body: dict[str, Any]) -> tuple[int, Any]:
        if last(body) == "q0":
            late.wait(20)  # until questions of the third shard have come
        if last(body) == "q8":
            late.set()
        return answer(server, body)

    server.script = script
    result = run_job(job(server, rows=12, concurrency=2))
    assert late.is_set() and (result.enriched, result.shards) == (12, 3)
    assert table()["answer"].tolist() == [f"to q{n}" for n in range(12)]
    assert not [thread for thread in threading.enumerate() if thread.name == "endpoint"]


@pytest.mark.usefixtures("interruptible")
def test_a_slow_row_does_not_hold_up_the_shards_after_it(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nor is what was answered meanwhile lost where the run is interrupted before it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("secbatch.runner.shard_rows_schedule", lambda job, cuda: (4,))
    late, answer = threading.Event(), server.script

    def script(server: Server, body: dict[str, Any]) -> tuple[int, Any]:
        if last(body) == "q0":
            late.wait(20)
        if last(body) == "q42":
            time.sleep(0.5)  # by then those before it have been answered
            _thread.interrupt_main()
            late.wait(20)
        return answer(server, body)

    server.script = script
    with pytest.raises(KeyboardInterrupt):
        run_job(job(server, rows=48, concurrency=3))
    late.set()
    server.script = answer
    server.bodies.clear()
    result = run_job(job(server, rows=48, concurrency=3))
    assert (result.exit_code, result.rejected) == (0, 0)
    assert result.reused >= 36 and len(server.bodies) == 48 - result.reused  # all but the first shard and the last two
    assert table()["answer"].tolist() == [f"to q{n}" for n in range(48)]


def test_each_answer_is_told_while_others_are_waited_for(server: Server) -> None:
    work_done, seen = WorkDone(), []
    two_there = threading.Event()

    def script(server: Server, body: dict[str, Any]) -> tuple[int, Any]:
        if last(body) == "slow":
            two_there.wait(20)
        return 200, said("yes")

    server.script = script
    one = task(server.url, concurrency=3)
    with work_done.in_hand():
        one.load()
        table = pa.table({"question": ["a", "b", "b", "slow"]})
        under_way = one.ask(one.encode(table, pa.array(list("0123")), pa.array([True] * 4)))
    deadline = time.monotonic() + 20
    while work_done.share < 0.6 and time.monotonic() < deadline:
        time.sleep(0.01)
    seen.append(work_done.share)
    two_there.set()
    under_way.land()
    assert [*seen, work_done.share] == [pytest.approx(2 / 3), 1.0]


def test_a_turn_waits_for_the_turn_before_it_alone(server: Server) -> None:
    late, answer = threading.Event(), server.script

    def script(server: Server, body: dict[str, Any]) -> tuple[int, Any]:
        if last(body) == "slow":
            late.wait(20)
        if last(body) == "c":
            late.set()
        return answer(server, body)

    server.script = script
    one = task(server.url, ("question", "thread", "turn"), conversation={"id": "thread", "order": "turn"})
    done = run(one, question=["slow", *"abc"], thread=["1", "2", "2", "2"], turn=["1", "1", "2", "3"])
    assert late.is_set() and answers(done) == ["to slow", "to a", "to b", "to c"]


def test_what_was_asked_before_in_a_run_is_not_asked_again(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("secbatch.runner.shard_rows_schedule", lambda job, cuda: (4,))
    one = job(server, rows=0)
    Path("in.csv").write_text("n,question\n" + "".join(f"{n},q{n % 5}\n" for n in range(40)))
    result = run_job(one)
    assert (result.exit_code, result.enriched, len(server.bodies)) == (0, 40, 5)
    assert table()["answer"].tolist() == [f"to q{n % 5}" for n in range(40)]
    assert table()["answer_tokens"].tolist() == [3] * 40


def test_how_large_a_shard_of_conversations_is_to_be_is_asked_when_its_turn_comes(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not while the input is read: all shards would be as small as those before the speed is measured."""
    monkeypatch.chdir(tmp_path)
    one = job(server, rows=0, conversation={"id": "thread", "order": "n"})
    Path("in.csv").write_text("n,thread,question\n" + "".join(f"{n},t{n // 2},q{n}\n" for n in range(320)))
    asked: set[int] = set()

    def rows(shard: int) -> int:
        asked.add(shard)
        return 16

    shards = input_shards(set_up(one, "run", lambda cuda: rows), tmp_path / "spill")
    assert (next(shards).num_rows, asked) == (16, {0})
    assert (next(shards).num_rows, asked) == (16, {0, 1})


def test_what_fails_for_one_shard_fails_for_all(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also where an earlier shard waits for an answer that a later one has asked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("secbatch.runner.shard_rows_schedule", lambda job, cuda: (2,))

    def script(server: Server, body: dict[str, Any]) -> tuple[int, Any]:
        time.sleep(0.05)
        return (401, b"") if "q5" in map(last, server.bodies) else (200, said("yes"))

    server.script = script
    with pytest.raises(ModelError, match="refuses access"):
        run_job(job(server, rows=40, concurrency=8))
    assert not [thread for thread in threading.enumerate() if thread.name == "endpoint"]


def test_at_the_time_to_stop_answers_that_are_on_their_way_are_waited_for(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("secbatch.runner.shard_rows_schedule", lambda job, cuda: (4,))
    until = time.time() + 1.0

    def script(server: Server, body: dict[str, Any]) -> tuple[int, Any]:
        time.sleep(0.3)
        return 200, said("yes")

    server.script = script
    with pytest.raises(Interrupted, match="Stopped at the time"):
        run_job(job(server, rows=48, concurrency=4), options=RunOptions(until=until))
    asked = len(server.bodies)
    server.script = lambda server, body: (200, said("yes"))
    result = run_job(job(server, rows=48, concurrency=4))
    assert result.reused == asked  # each that was asked for is there
    assert len(server.bodies) == 48


def test_rejects_count_as_ever(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    server.script = lambda server, body: (400, b"") if last(body) in ("q1", "q2") else (200, said("yes"))
    result = run_job(job(server, rows=10))
    assert (result.exit_code, result.rejected) == (EXIT_REJECTS, 2)
    assert table()["secbatch_error"].tolist()[1] == "Task 'answer': the endpoint refuses it (HTTP 400)."
    assert table()["answer"].isna().tolist() == [False, True, True] + [False] * 7


def test_an_interrupt_does_not_wait_for_answers(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def script(server: Server, body: dict[str, Any]) -> tuple[int, Any]:
        release.wait(20)
        return 200, said("late")

    server.script = script
    one = task(server.url)
    encoded = one.encode(pa.table({"question": ["a", "b"]}), pa.array(["1", "2"]), pa.array([True, True]))
    under_way = one.compute(encoded)
    while not server.bodies:
        time.sleep(0.01)
    begin = time.monotonic()
    one.abandon()
    with pytest.raises(Interrupted):
        under_way.land()
    assert time.monotonic() - begin < 10
    assert not [thread for thread in threading.enumerate() if thread.name == "endpoint"]
    release.set()


def test_nothing_is_asked_once_nobody_waits_for_answers(server: Server) -> None:
    """A stage may fail while another one is about to ask."""
    one = task(server.url)
    encoded = one.encode(pa.table({"question": ["a", "b"]}), pa.array(["1", "2"]), pa.array([True, True]))
    one.abandon()
    with pytest.raises(Interrupted):
        one.compute(encoded).land()
    assert server.bodies == []
    assert not [thread for thread in threading.enumerate() if thread.name == "endpoint"]


def test_the_fingerprint_holds_what_decides_an_answer(server: Server) -> None:
    plain = task(server.url).fingerprint()
    same = [{"concurrency": 3}, {"timeout": 5}, {"retries": 9}, {"endpoint": "https://elsewhere:1/v1"}]
    assert {task(server.url, **changes).fingerprint() for changes in same} == {plain}
    others = [
        {"prompt": "Sec: {text}"},
        {"system": "Brief."},
        {"model": "other"},
        {"generation": {"max_new_tokens": 5}},
        {"generation": {"do_sample": True}},
        {"generation": {"do_sample": True, "seed": 1}},
    ]
    assert len({plain, *(task(server.url, **changes).fingerprint() for changes in others)}) == len(others) + 1


def test_a_key_on_an_open_line_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENDPOINT_KEY", KEY)
    assert task("http://gpu-7:8000/v1", api_key_env="ENDPOINT_KEY").notices == (
        "the key goes to http://gpu-7:8000/v1 unencrypted; use https",
    )
    assert task("https://gpu-7/v1", api_key_env="ENDPOINT_KEY").notices == ()
    assert task("http://127.0.0.1:8000/v1", api_key_env="ENDPOINT_KEY").notices == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"endpoint": "gpu-7:8000"}, "address such as"),
        ({"endpoint": "ftp://gpu-7/v1"}, "address such as"),
        ({"endpoint": "http://gpu-7:port/v1"}, "address such as"),
        ({"endpoint": "http://user:secret@gpu-7/v1"}, "api_key_env"),
        ({"endpoint": "http://gpu-7/v1?key=secret"}, "api_key_env"),
        ({"endpoint": "http://gpu-7/v1?"}, "no user, password or parameters"),
        ({"endpoint": "http://gpu-7/v1#"}, "no user, password or parameters"),
        ({"concurrency": 0}, "greater than or equal to 1"),
        ({"endpoint": None, "concurrency": 4}, "concurrency has no effect without endpoint"),
        ({"endpoint": None, "api_key_env": "KEY"}, "api_key_env has no effect without endpoint"),
        ({"revision": "main"}, "revision has no effect with endpoint"),
        ({"generation": {"num_beams": 4}}, "generation.num_beams cannot be sent"),
        ({"generation": {"temperature": 0.5}}, "temperature has no effect without"),
        ({"api_key_env": "sk-123"}, "pattern"),
    ],
)
def test_what_cannot_be_is_refused_in_the_job(changes: dict[str, Any], message: str) -> None:
    values = {"type": "chat", "model": "m", "text": "question", "endpoint": "http://gpu-7:8000/v1"} | changes
    with pytest.raises(ValidationError, match=message):
        Chat.model_validate(values)


def test_the_whole_address_of_completions_is_taken_too() -> None:
    values = {"type": "chat", "model": "m", "text": "q", "endpoint": "http://gpu-7/v1/chat/completions/"}
    assert Chat.model_validate(values).endpoint == "http://gpu-7/v1"


def test_columns_that_are_missing_are_named(server: Server) -> None:
    with pytest.raises(JobError, match="question"):
        task(server.url, columns=("text",))
