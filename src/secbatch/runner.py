"""The one door: `run_job(job)` for the command line, Python callers and tests."""

import contextlib
import json
import os
import secrets
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

import secbatch
from secbatch.engines.local import LocalEngine
from secbatch.errors import (
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_REJECTS,
    InputError,
    Interrupted,
    JobError,
    OutputError,
    SecbatchError,
)
from secbatch.identity import Identities, content_key
from secbatch.job import Chat, FillMask, Job
from secbatch.redaction import redacted, redacted_values
from secbatch.reporting import Reporter, Silent
from secbatch.run_record import rate, run_record
from secbatch.sources.open import Source, open_source
from secbatch.sources.shard import Shard
from secbatch.stages import StageClock
from secbatch.store.assemble import Assembly
from secbatch.store.filesystem import check_output_place, make_folder
from secbatch.store.layout import Layout
from secbatch.store.ledger import Ledger, Part
from secbatch.store.lock import hold
from secbatch.store.parts import check_partition_columns, read_part, write_part
from secbatch.store.progress import ProgressFile
from secbatch.store.rejects import RejectWriter
from secbatch.store.run_files import write_run_file
from secbatch.store.versions import check_own, link_name, prune, publish
from secbatch.worker import Enriched, Work, Worker

if TYPE_CHECKING:
    from secbatch.models.device import Compute
    from secbatch.models.resolved import ResolvedModel

PUBLISH_SECONDS = 600.0  # how often a first run shows what it has so far


@dataclass
class RunResult:
    """What a run did. Rows: `read` = parsed rows; each is enriched, reused or superseded."""

    run: str
    output: str
    state: str = "running"  # finished, interrupted or failed
    read: int = 0
    enriched: int = 0
    reused: int = 0
    superseded: int = 0  # a later row has the same id
    rejected: int = 0  # parsed, in the dataset with secbatch_status = rejected
    unparseable: int = 0  # pieces of files under rejects/
    unreadable_files: int = 0
    rows_in_dataset: int = 0
    done: dict[str, int] = field(default_factory=dict)  # task -> enriched rows in which it had something to do
    tokens: int = 0
    padding: int = 0
    shards: int = 0
    seconds: float = 0.0
    timings: dict[str, float] = field(default_factory=dict)  # stage (see secbatch.stages) -> seconds
    version: int = 0
    published: bool = False
    device: str = ""
    precision: str = ""
    notices: list[str] = field(default_factory=list)
    part_files: list[str] = field(default_factory=list)  # of the version, in row order, relative to OUT/data
    exit_code: int = EXIT_OK
    error: str | None = None  # the sentence that ended a run which did not finish


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def shard_rows_schedule(job: Job, cuda: bool) -> tuple[int, ...]:
    """Row targets of the first, second and all later shards: about a minute of work at most, the first small."""
    chat = any(isinstance(spec, Chat) for spec in job.tasks.values())
    if cuda:
        return (512, 2048, 4096) if chat else (2048, 16_384, 65_536)
    return (32, 128, 256) if chat else (128, 1024, 2048)


@dataclass(frozen=True)
class Setup:
    """All that is known before the first row is read: checked, but no weights loaded."""

    job: Job
    compute: "Compute"
    models: "dict[str, ResolvedModel]"
    source: Source
    worker: Worker
    shard_rows: Callable[[int], int]  # row target of shard number i


def set_up(job: Job, run: str, schedule: tuple[int, ...] | None = None) -> Setup:
    """Resolves models, opens the input, fits tasks to columns. Raises one-sentence errors for all that is wrong."""
    from secbatch.models.device import choose
    from secbatch.models.resolve import resolve

    compute = choose(job.device, job.precision)
    models = {name: resolve(spec.model, spec.revision) for name, spec in job.tasks.items()}
    rows = schedule or shard_rows_schedule(job, compute.device.startswith("cuda"))

    def shard_rows(index: int) -> int:
        return rows[min(index, len(rows) - 1)]

    source = open_source(job.input, shard_rows)
    _refuse_own_output(source, Layout(Path(job.output.path)))
    _check_columns(job, source.schema)
    return Setup(job, compute, models, source, Worker(job, source.schema, models, compute, run), shard_rows)


def _check_columns(job: Job, schema: pa.Schema) -> None:
    from secbatch.errors import nearest

    wanted = [(name, "input.id") for name in job.input.id]
    wanted += [(name, "output.partition_by") for name in job.output.partition_by]
    for name, key in wanted:
        if name not in schema.names:
            raise InputError(
                f"Column '{name}', named in {key}, is not in the input{nearest(name, schema.names)}; "
                f"it has {', '.join(schema.names)}."
            )
    check_partition_columns(job.output.partition_by, schema)


def _refuse_own_output(source: Source, layout: Layout) -> None:
    """A job whose input takes in its output would enrich its own rows again on every run."""
    own = layout.internal.resolve()
    for file in source.files:
        if "://" not in file.path and Path(file.fs_path).resolve().is_relative_to(own):
            raise InputError(
                f"Input file '{file.path}' is part of this job's output '{layout.root}'; "
                "put the output outside of the input, or narrow input.path."
            )


def run_job(
    job: Job,
    *,
    limit: int | None = None,
    reporter: Reporter | None = None,
    ended: Callable[[RunResult], None] | None = None,
) -> RunResult:
    """Runs `job` to its end, or goes on with its unfinished run.

    `ended` is told the result also of a run that fails or is interrupted, where it got far enough to have one.

    Raises SecbatchError (with an exit code) for what stops a run as a whole; rows that fail do not.
    Interrupted is raised after finished shards have been recorded.
    """
    layout = Layout(Path(job.output.path))
    check_output_place(layout.root)
    check_own(layout)
    made = [folder for folder in (layout.internal, layout.root) if not folder.exists()]
    with hold(layout.lock):
        ledger = Ledger(layout.ledger)
        run = None
        try:
            run = _Run(job, layout, ledger, limit, reporter or Silent())
            return run.execute()
        finally:
            ledger.close()
            if ended and run:
                ended(run.result)
            if made and not (run and run.result.device):
                _leave_no_trace(made)


def _leave_no_trace(made: list[Path]) -> None:
    """Removes the folders of a run that was refused before any work: a typo should not leave an output behind."""
    shutil.rmtree(made[0], ignore_errors=True)
    for folder in made[1:]:
        with contextlib.suppress(OSError):  # somebody else's file is in it
            folder.rmdir()


class _Run:
    """One run on an output that this process holds."""

    def __init__(self, job: Job, layout: Layout, ledger: Ledger, limit: int | None, reporter: Reporter) -> None:
        self.job, self.layout, self.ledger, self.limit, self.reporter = job, layout, ledger, limit, reporter
        described = _described(job, limit)
        unfinished = ledger.unfinished_run(described)
        self.described = described
        self.run = unfinished or f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        self._check_mode(resuming=unfinished is not None)
        self.result = RunResult(self.run, str(layout.root))
        self.clock = StageClock()
        self.parts: list[tuple[int, Part]] = []  # shard index, part; in order
        self.winners: dict[str, int] = {}  # id that stands in several shards -> the last of them
        self.loaded = False
        self.last_published = 0.0
        self.read_whole = False

    def _check_mode(self, resuming: bool) -> None:
        if self.job.output.mode == "fail-if-exists" and self.ledger.latest_version() and not resuming:
            raise OutputError(
                f"Output '{self.layout.root}' exists already and the job says `mode: fail-if-exists`; "
                "choose another output or mode."
            )

    def execute(self) -> RunResult:
        self.started, self.begin = now(), time.monotonic()
        known_output = self.ledger.latest_version() > 0
        try:
            setup = set_up(self.job, self.run, self._schedule())
            self._settle_settings(setup)
            self.ledger.start_run(self.run, self.described, self.started)
            self.setup, self.worker = setup, setup.worker
            self.rejects = RejectWriter(self.layout.rejects, self.run)
            with ProgressFile(self.layout.progress, self._snapshot, self._notice):
                self._go(setup)
            self.result.state = "finished"
        except BaseException as error:
            self._note_end(error)
            raise
        finally:
            self.result.seconds = time.monotonic() - self.begin
            self.result.timings = self.clock.seconds()
            if self.result.device:  # it got as far as work
                self.ledger.end_run(self.run, self.result.state, now())
            if self.result.device or known_output:
                self._record(self.started)
        return self.result

    def _note_end(self, error: BaseException) -> None:
        interrupted = isinstance(error, Interrupted | KeyboardInterrupt)
        self.result.state = "interrupted" if interrupted else "failed"
        if isinstance(error, SecbatchError):
            self.result.exit_code, self.result.error = error.exit_code, str(error)
        else:
            self.result.exit_code = EXIT_INTERRUPTED if interrupted else EXIT_FAILURE
            self.result.error = redacted(f"{type(error).__name__}: {error}")

    def _snapshot(self) -> dict[str, Any]:
        """What `secbatch status` shows of this run while it goes on."""
        seconds = time.monotonic() - self.begin
        fraction = self._fraction()
        result = self.result
        return {
            "run": self.run,
            "name": self.job.name,
            "process": os.getpid(),
            "started": self.started,
            "written": now(),
            "doing": self.clock.doing(),
            "read": result.read,
            "enriched": result.enriched,
            "reused": result.reused,
            "rejected": result.rejected,
            "unparseable": self.rejects.count,
            "fraction": round(fraction, 4),
            "rows_per_second": rate(result.enriched, seconds),
            "seconds": round(seconds, 1),
            "seconds_left": round(seconds * (1 - fraction) / fraction, 1) if fraction else None,
        }

    # -- before work

    def _schedule(self) -> tuple[int, ...] | None:
        return self.ledger.shard_rows()

    def _settle_settings(self, setup: Setup) -> None:
        """Row identity and shard boundaries are fixed by the first run on an output."""
        settings = {
            "id": json.dumps(self.job.input.id),
            "sentences": json.dumps(self.job.input.sentences),
            "partition_by": json.dumps(self.job.output.partition_by),
        }
        for key, value in settings.items():
            fixed = self.ledger.setting(key)
            if fixed is not None and fixed != value:
                raise OutputError(
                    f"Output '{self.layout.root}' was made with {key} = {fixed}, the job says {value}; "
                    "that cannot change: use another output."
                )
            self.ledger.fix_setting(key, value)
        if self.ledger.setting("shard_rows") is None:
            cuda = setup.compute.device.startswith("cuda")
            self.ledger.fix_setting("shard_rows", json.dumps(shard_rows_schedule(self.job, cuda)))

    # -- work

    def _go(self, setup: Setup) -> None:
        self.result.device, self.result.precision = setup.compute.description, setup.compute.dtype
        for text in (*setup.compute.notices, *setup.source.notices):
            self._notice(text)
        make_folder(self.layout.parts)
        self.base = self._base_parts()
        self.identities = Identities(self.job.input.id, self.job.input.sentences is not None, bool(self.base))
        self.last_published = time.monotonic()
        engine: LocalEngine[Work | Part, Work | Part] = LocalEngine(self._encoded(), self._compute, self._finish)
        self.shards_ahead: deque[tuple[int, tuple[str, ...]]] = deque()
        engine.run()
        self.rejects.flush()
        self.result.unparseable, self.result.unreadable_files = (
            self.rejects.count,
            len(self.rejects.broken_files),
        )
        with self.clock("publish"):
            self._publish(final=True)
        self._judge()

    def _base_parts(self) -> list[Part]:
        """Parts of the dataset as it stood before this run."""
        if self.job.output.mode == "overwrite":
            return []
        return self.ledger.version_parts(self.ledger.version_before(self.run))

    def _shards(self) -> Iterator[Shard]:
        spill = self.layout.checkpoints / "conversations"
        yield from self.clock.each("read", limited_shards(grouped_shards(self.setup, spill), self.limit))
        self.read_whole = self.limit is None

    def _encoded(self) -> Iterator[Work | Part]:
        for shard in self._shards():
            self.rejects.add(shard.rejects)
            self.result.read += shard.num_rows
            if not shard.num_rows:
                continue
            identified = self.identities.name(shard)
            self.result.superseded += identified.superseded
            self.shards_ahead.append((shard.index, identified.repeated))
            key = content_key(identified)
            known = self._known_parts(key)
            # In the same order, too: all parts of a version have one schema.
            whole = next((p for p in known if list(p.tasks.items()) == list(self.worker.fingerprints.items())), None)
            if whole is not None:
                yield whole
                continue
            if not self.loaded:
                with self.clock("load"):
                    self._load()
            with self.clock("encode"):
                encoded = self.worker.encode(Work(identified, key, self._reusable(known, identified.ids)))
            yield encoded

    def _load(self) -> None:
        self.worker.load()
        self.loaded = True
        said = set(self.result.notices)
        for text in dict.fromkeys(text for task in self.worker.tasks.values() for text in task.notices):
            if text not in said:
                self._notice(text)

    def _known_parts(self, key: str) -> list[Part]:
        parts = self.ledger.parts_of(key)
        if self.job.output.mode == "overwrite":
            parts = [part for part in parts if part.run == self.run]
        return [part for part in parts if all((self.layout.parts / file).exists() for file in part.files)]

    def _reusable(self, known: list[Part], ids: pa.Array) -> dict[str, pa.Table]:
        """Columns of tasks that have not changed, from a part whose other tasks have."""
        reused: dict[str, pa.Table] = {}
        for part in known:
            if part.rejected:  # its error column mixes the tasks' errors
                continue
            for name, fingerprint in self.worker.fingerprints.items():
                if name not in reused and part.tasks.get(name) == fingerprint:
                    columns = [f.name for f in self.worker.tasks[name].fields]
                    table = read_part(self.layout.parts, part.files, ["secbatch_id", *columns])
                    place = pa.compute.index_in(ids, value_set=table.column("secbatch_id").combine_chunks())
                    reused[name] = table.take(place)
        return reused

    def _compute(self, item: Work | Part) -> Work | Part:
        if isinstance(item, Part):
            return item
        with self.clock("device"):
            return self.worker.compute(item)

    def _finish(self, item: Work | Part) -> None:
        # Only now do the rows of this shard win over earlier ones: a version shows finished shards alone.
        index, repeated = self.shards_ahead.popleft()
        self.winners |= dict.fromkeys(repeated, index)
        if isinstance(item, Part):
            part = item
            self.result.reused += part.rows
        else:
            with self.clock("finish"):
                enriched = self.worker.finish(item)
                part = self._write(item, enriched)
            self.result.enriched += part.rows
            for name, rows in enriched.done.items():
                self.result.done[name] = self.result.done.get(name, 0) + rows
            self.result.tokens += enriched.tokens
            self.result.padding += enriched.padding
        self.parts.append((index, part))
        self.result.shards += 1
        self.result.rejected += part.rejected
        self.reporter.progress(
            self.result.enriched + self.result.reused,
            self.result.rejected + self.rejects.count,
            self._fraction(),
        )
        due = time.monotonic() - self.last_published > PUBLISH_SECONDS or len(self.parts) == 1
        if due and not self.base and self.job.output.mode != "overwrite":
            with self.clock("publish"):
                self._publish(final=False)

    def _write(self, work: Work, enriched: Enriched) -> Part:
        fingerprints = self.worker.fingerprints
        digest = json.dumps(fingerprints, sort_keys=True)
        name = f"{work.key[:24]}-{_short_hash(digest + str(self.worker.schema))}"
        table = enriched.table.replace_schema_metadata(self._footer())
        files = write_part(self.layout.parts, name, table, self.job.output.partition_by)
        sources = tuple(sorted(set(enriched.table.column("secbatch_source").unique().to_pylist())))
        part = Part(name, work.key, fingerprints, files, sources, table.num_rows, enriched.rejected, self.run)
        self.ledger.add_part(part)
        return part

    def _footer(self) -> dict[bytes, bytes]:
        specs = {name: spec.model_dump(mode="json") for name, spec in self.job.tasks.items()}
        about = redacted_values(
            {"job": self.job.name, "tasks": self.worker.fingerprints, "specs": specs, **self._provenance()}
        )
        return {b"secbatch": json.dumps(about).encode()}

    def _provenance(self) -> dict[str, Any]:
        import tokenizers
        import torch
        import transformers

        models = {
            name: {
                "model": model.name,
                "hub_id": model.hub_id,
                "revision": model.revision,
                "weights": model.weights_hash,
                "tokenizer": model.tokenizer_hash,
                "licence": model.licence,
            }
            for name, model in self.setup.models.items()
        }
        versions = {
            "secbatch": secbatch.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
            "pyarrow": pa.__version__,
        }
        return {"models": models, "precision": self.result.precision, "versions": versions}

    def _fraction(self) -> float:
        done = self.result.enriched + self.result.reused
        if self.limit:
            return min(done / self.limit, 1.0)
        source = self.setup.source
        share = source.bytes_read / source.bytes_total if source.bytes_total else 1.0
        return min(share * done / max(self.result.read, 1), 1.0)

    # -- after work

    def _publish(self, final: bool) -> None:
        self.last_published = time.monotonic()
        assembly = Assembly(self.layout, self.ledger, self.worker.schema, self.job.output.partition_by, self._footer())
        current = assembly.without_superseded(list(self.parts), self.winners)
        if final:
            self.result.superseded += sum(p.rows for _, p in self.parts) - sum(p.rows for p in current)
            replaced = self._replaced_sources()
            seen = self.identities.seen
            kept = assembly.kept(self.base, current, replaced, lambda ids: seen.contains(seen.digests(ids)))
            current = [*kept, *current]
            if not current:
                current = [self._empty_part()]
        number = self.ledger.latest_version()
        shown = [part.name for part in self.ledger.version_parts(number)]
        if not final and len(shown) >= len(current):
            return  # a resumed run shows nothing less than what is shown already
        if shown != [part.name for part in current] or not self.layout.data.is_symlink():
            number = publish(self.layout, self.ledger, self.run, current, now())
            self.result.published = True
        self.result.version = number
        self.result.rows_in_dataset = sum(part.rows for part in current)
        self.result.part_files = [link_name(place, file) for place, part in enumerate(current) for file in part.files]
        prune(self.layout, self.ledger, keep_unused_parts=not final)

    def _replaced_sources(self) -> set[str]:
        """Files that this run read whole: what earlier runs had of them is replaced."""
        if not self.read_whole:
            return set()
        broken = self.rejects.broken_files
        return {file.path for file in self.setup.source.files if file.path not in broken}

    def _empty_part(self) -> Part:
        name = f"empty-{_short_hash(str(self.worker.schema))}"
        table = self.worker.schema.empty_table().replace_schema_metadata(self._footer())
        files = write_part(self.layout.parts, name, table, ())
        part = Part(name, name, self.worker.fingerprints, files, (), 0, 0, self.run)
        self.ledger.add_part(part)
        return part

    def _judge(self) -> None:
        for name, rows in self.result.done.items():
            if not rows:
                spec = self.job.tasks[name]
                missing = "has a <mask>" if isinstance(spec, FillMask) else "has text"
                self._notice(f"Task '{name}' had nothing to do: no enriched row of '{spec.text}' {missing}.")
        bad = self.result.rejected + self.result.unparseable
        allowed = self.job.rejects_allowed(self.result.read + self.result.unparseable)
        if bad > allowed or self.result.unreadable_files:
            self.result.exit_code = EXIT_REJECTS

    def _notice(self, text: str) -> None:
        text = redacted(text)
        self.result.notices.append(text)
        self.reporter.notice(text)

    def _record(self, started: str) -> None:
        provenance = self._provenance() if self.result.device else {"models": {}, "versions": {}}
        record = run_record(
            self.result, self.job, started=started, finished=now(), limit=self.limit, provenance=provenance
        )
        try:
            write_run_file(self.layout.runs, self.run, record)
        except SecbatchError as error:
            # The run's own outcome matters more than its record; a full disk must not hide it.
            self._notice(f"The run's record could not be written: {error}")


def _described(job: Job, limit: int | None) -> str:
    """What tells one job from another in the ledger; a secret counts by its hash."""
    values = {"job": job.model_dump(mode="json"), "limit": limit}
    shown = redacted_values(values)
    if shown != json.loads(json.dumps(values)):
        shown["digest"] = _short_hash(json.dumps(values, sort_keys=True))
    return json.dumps(shown, sort_keys=True)


def _short_hash(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()[:12]


def grouped_shards(setup: Setup, spill: Path) -> Iterator[Shard]:
    """The input's shards; where a task holds conversations, these whole and in order (grouped under `spill`)."""
    chats = [spec for spec in setup.job.tasks.values() if isinstance(spec, Chat)]
    groupings = {(chat.conversation.id, chat.conversation.order) for chat in chats if chat.conversation}
    if not groupings:
        return setup.source.shards()
    if len(groupings) > 1:
        raise JobError("Two chat tasks group conversations by different columns; use one grouping in a job.")
    from secbatch.sources.grouped import group_by_conversation

    shutil.rmtree(spill, ignore_errors=True)  # what a killed run has left
    make_folder(spill)
    name, order = groupings.pop()
    return group_by_conversation(setup.source.shards(), name, order, setup.shard_rows, spill)


def limited_shards(shards: Iterator[Shard], limit: int | None) -> Iterator[Shard]:
    """The shards of the first `limit` rows, the last one cut; all of them when there is no limit."""
    left = limit
    for shard in shards:
        if left is not None and shard.num_rows > left:
            shard = _head(shard, left)
        yield shard
        if left is not None:
            left -= shard.num_rows
            if left <= 0:
                return


def _head(shard: Shard, rows: int) -> Shard:
    errors = {position: text for position, text in shard.errors.items() if position < rows}
    table, source, row = shard.table.slice(0, rows), shard.source.slice(0, rows), shard.row.slice(0, rows)
    return Shard(shard.index, table, source, row, errors, shard.rejects)
