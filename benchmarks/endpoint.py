"""How busy a chat endpoint is kept: python benchmarks/endpoint.py [--rows N] [--concurrency N] [--latency SECONDS] …

A server of this benchmark's own, in another process, answers each request after a while; a job sends it the questions
of a CSV file. Prints the answers a second beside those of a server that always has `concurrency` requests at work,
and the greatest number of requests it had at once.
"""

import argparse
import asyncio
import json
import multiprocessing
import random
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from secbatch.collector import set_aside_once
from secbatch.job import Job
from secbatch.runner import run_job


class Server:
    """Answers after `latency` seconds; `spread` 0: always so; else a part of it is fixed and the rest exponential."""

    def __init__(self, latency: float, spread: float) -> None:
        self.latency, self.spread = latency, spread
        self.at_once = self.most_at_once = self.answered = 0
        self.wanted = self.busy = 0.0  # seconds of all requests together: meant, and as it was
        self.first = self.last = 0.0  # monotonic times of the first request and of the last answer

    async def serve(self, channel: Connection) -> None:
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=1024)
        channel.send(server.sockets[0].getsockname()[1])
        while not channel.poll():
            await asyncio.sleep(0.05)
        channel.send((self.answered, self.most_at_once, self.wanted, self.busy, self.last - self.first))

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                writer.write(await self._answer())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _answer(self) -> bytes:
        seconds = self.latency * (1 - self.spread)
        if self.spread:
            seconds += random.expovariate(1 / (self.latency * self.spread))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        begin = time.monotonic()
        self.first = self.first or begin
        await asyncio.sleep(seconds)
        self.at_once -= 1
        self.answered, self.wanted = self.answered + 1, self.wanted + seconds
        self.last = time.monotonic()
        self.busy += self.last - begin
        value = {"choices": [{"message": {"content": "As it were."}}], "usage": {"completion_tokens": 4}}
        body = json.dumps(value).encode()
        return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def serve(channel: Connection, latency: float, spread: float) -> None:
    asyncio.run(Server(latency, spread).serve(channel))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.2, help="mean seconds of an answer")
    parser.add_argument("--spread", type=float, default=0.0, help="0 to 1: the part of it that is left to chance")
    parser.add_argument("--turns", type=int, default=1, help="questions of a conversation")
    asked = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, asked.latency, asked.spread))
    server.start()
    try:
        port = ours.recv()
        with tempfile.TemporaryDirectory() as folder:
            job = job_of(Path(folder), port, asked)
            set_aside_once()  # as the command does
            begin, processor = time.monotonic(), time.process_time()
            result = run_job(job)
            seconds, processor = time.monotonic() - begin, time.process_time() - processor
        ours.send("how was it?")
        answered, most, wanted, busy, serving = ours.recv()
    finally:
        server.terminate()
        server.join()
    assert result.rejected == 0 and answered == asked.rows, (result, answered)
    ideal = asked.concurrency * answered / wanted  # answers a second of a server that never waits for a request
    share = busy / serving / asked.concurrency
    print(f"{answered:,} answers in {seconds:.1f} s: {answered / seconds:.0f} a second, of {ideal:.0f} at most;")
    print(f"from the first request to the last answer, {serving:.1f} s, {answered / serving / ideal:.1%} of that, and")
    print(f"{busy / serving:.1f} requests at a time on average ({share:.1%}), {most} at most;")
    print(f"{1000 * processor / answered:.2f} ms of this process's processor time a row")


def job_of(folder: Path, port: int, asked: argparse.Namespace) -> Job:
    path = folder / "questions.csv"
    lines = (f"{number // asked.turns},{number % asked.turns},What is number {number}?" for number in range(asked.rows))
    path.write_text("thread,turn,question\n" + "\n".join(lines) + "\n")
    chat = {
        "type": "chat",
        "model": "any",
        "text": "question",
        "endpoint": f"http://127.0.0.1:{port}/v1",
        "concurrency": asked.concurrency,
        "conversation": {"id": "thread", "order": "turn"} if asked.turns > 1 else None,
    }
    values = {"name": "endpoint", "input": {"path": str(path)}, "tasks": {"answer": chat}}
    return Job.model_validate(values | {"output": {"path": str(folder / "out")}})


if __name__ == "__main__":
    main()
