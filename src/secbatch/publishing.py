"""From finished shards to a version that readers see."""

import json
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from secbatch.errors import OutputError, counted
from secbatch.job import Job
from secbatch.reuse import Reuse
from secbatch.run_identity import now
from secbatch.store import faults
from secbatch.store.assemble import Assembled, Assembly
from secbatch.store.filesystem import remove_file, remove_tree
from secbatch.store.layout import Layout
from secbatch.store.ledger import Ledger, same_job
from secbatch.store.ledger_records import Checkpoint, Part
from secbatch.store.merge import Merger
from secbatch.store.parts import DamagedPartError
from secbatch.store.parts_ahead import PartsAhead
from secbatch.store.present import Winners
from secbatch.store.row_keys import REJECTED
from secbatch.store.versions import folder_name, link_name, prune, publish, shown_folder
from secbatch.worker import Worker

LEFT_FOR_RUNS = 10  # that finish, until what another job's unfinished run has left is given up
REMOVERS = 4  # threads: a file system frees the space of several files at a time


@dataclass
class Published:
    """What readers see now."""

    number: int
    rows: int
    files: list[str]  # relative to OUT/data, in row order
    new: bool = False  # published by this call
    superseded: int = 0  # rows that lost to a later row with their id, in another shard; or to a later document
    superseded_rejected: int = 0  # of these, rejected ones
    superseded_computed: int = 0  # of these, those that the run has worked on
    notices: list[str] = field(default_factory=list)


class Publisher:
    """Publishes for one run, more than once if need be."""

    def __init__(
        self,
        job: Job,
        layout: Layout,
        ledger: Ledger,
        run: str,
        reuse: Reuse,
        worker: Worker,
        about: dict[str, Any],
    ) -> None:
        self.job, self.layout, self.ledger, self.run = job, layout, ledger, run
        self.reuse, self.worker, self.about = reuse, worker, about
        self.metadata: dict[bytes, bytes] = {}
        self._tasks = {name: [fingerprint] for name, fingerprint in worker.fingerprints.items()}

    @property
    def merger(self) -> Merger:
        partitions = self.job.output.partition_columns
        return Merger(self.layout, self.worker.schema, partitions, self.metadata, dict(self.about), self.run)

    def parts_ahead(self) -> PartsAhead | None:
        """A writer of parts while the run goes on; None where rows of the base are to be among them."""
        return None if self.reuse.base else PartsAhead(self.merger, self._tasks)

    def publish(
        self,
        checkpoints: Sequence[Checkpoint],
        winners: Winners | None,
        *,
        read_whole: list[str],
        complete: bool,
        final: bool,
        limited: bool = False,
        mending: bool = False,
        input_changed: bool = False,
        worked_on: Collection[int] = (),
        on_their_way: Collection[str] = (),
    ) -> Published:
        """`read_whole`: files that this run has read to their end; `complete`: they are all of the job's input.

        `input_changed`: since an earlier try of this run, as far as is known by now.

        `limited`: a document may have been read in part. `mending`: of the rows of these files, only rejected ones may
        be replaced by what the files hold now. `worked_on`: shards that this run has done itself since it was started.
        `on_their_way`: files under parts/ that are not whole yet, and stay.
        """
        named = bool(self.job.input.id)
        sentences = named and self.job.input.sentences is not None
        assembly = Assembly(
            self.layout,
            self.reuse.open_keys,
            self.reuse.schema_name,
            self.run,
            self._tasks,
            named,
            sentences,
            limited,
            mending,
            worked_on,
        )
        base = self.reuse.base if final else []
        if final or input_changed:
            base = base or self.reuse.own_shown()
        output = self.job.output
        made = assembly.assemble(
            base,
            checkpoints,
            winners,
            output.removed if complete else "keep",
            read_whole,
        )
        notices = self._check_removed(made, base)
        merger = self.merger
        parts = merger.parts(made.pieces) or ([merger.empty()] if final else [])
        superseded = merger.superseded(made.superseded, self._reusable_columns()) if final else []
        if final and not complete:
            known = {part.name for part in superseded}
            superseded += [part for part in self.reuse.base_superseded if part.name not in known]
        return self._show(parts, superseded, made, notices, final, on_their_way)

    def _reusable_columns(self) -> list[str]:
        tasks = self.worker.tasks.values()
        return [*(f.name for task in tasks for f in task.fields), "secbatch_run", "secbatch_error"]

    def _check_removed(self, made: Assembled, base: Sequence[Part]) -> list[str]:
        rows = sum(part.rows for part in base)
        # Without `id` an edited row is one that is gone and one that is new.
        lost = made.removed if self.job.input.id else made.removed - made.added
        if lost > self.job.output.removals_allowed(rows):
            raise OutputError(
                f"{lost:,} of the {counted(rows, 'row')} in '{self.layout.root}' {'is' if lost == 1 else 'are'} no"
                f" longer in the input, more than output.max_removed ({self.job.output.max_removed}) allows; nothing"
                " was changed. See whether the input is whole, or allow it with `--set output.max_removed=100%`."
            )
        became = {"dropped": made.removed - made.marked, "marked": made.marked}
        return [
            f"{counted(rows, 'row')} {'is' if rows == 1 else 'are'} no longer in the input and"
            f" {'was' if rows == 1 else 'were'} {how}."
            for how, rows in became.items()
            if rows
        ]

    def _show(
        self,
        parts: list[Part],
        superseded: list[Part],
        made: Assembled,
        notices: list[str],
        final: bool,
        on_their_way: Collection[str],
    ) -> Published:
        number = self.ledger.latest_version()
        shown = [part.name for part in self.ledger.version_parts(number)]
        rows = sum(part.rows for part in parts)
        before = sum(part.rows for part in self.ledger.version_parts(number))
        new = False
        if final or rows > before:  # a resumed run shows nothing less than what is shown already
            hidden = self.ledger.version_parts(number, superseded=True)
            same = shown == [part.name for part in parts] and self._same_rows(hidden, superseded)
            # Readers may see another version: somebody has turned the link, or lost it.
            if not same or shown_folder(self.layout) != folder_name(number):
                number = publish(self.layout, self.ledger, self.run, parts, now(), superseded, last=final)
                new = True
            elif final:
                self.ledger.note_all_published(self.run)
            prune(self.layout, self.ledger, on_their_way)
        else:
            rows = before
        files = [link_name(place, file) for place, part in enumerate(parts) for file in part.files]
        lost = (made.superseded_rows, made.superseded_rejected, made.superseded_computed)
        return Published(number, rows, files, new, *lost, notices)

    def _same_rows(self, known: Sequence[Part], made: Sequence[Part]) -> bool:
        """Whether these parts of superseded rows hold the same results; other neighbours make other parts of them."""
        if [part.name for part in known] == [part.name for part in made]:
            return True
        if sum(part.rows for part in known) != sum(part.rows for part in made):
            return False
        try:
            return np.array_equal(self._results(known), self._results(made))
        except DamagedPartError:  # of the known ones, which these are to replace
            return False

    def _results(self, parts: Sequence[Part]) -> np.ndarray:
        """uint64 [n, 5 + 2 for each task], sorted: whose results the parts hold, and what of."""
        found = []
        for part in parts:
            keys = self.reuse.open_keys(part)
            tasks = [
                np.asarray(keys.column(f"done {name}")) if name in part.tasks else np.zeros((keys.rows, 2), np.uint64)
                for name in self._tasks
            ]
            flags = keys.flags[:, None].astype(np.uint64)
            rejected = np.where(flags & REJECTED, keys.array("content"), 0)  # only as it was is it so again
            found.append(np.hstack([np.asarray(keys.ids), flags, rejected, *tasks]))
            keys.release()
        rows = np.concatenate(found)
        return rows[np.lexsort(rows.T)]

    def clear(self, complete: bool) -> None:
        """After the last publication: what it was made from is of no more use.

        Where the job drops removed rows, a `complete` run also drops what earlier runs could not parse: whatever of it
        is still in the input is among this run's own rejects. And damaged files of the dataset: whatever of them is
        still in the input is in it again.
        """
        if complete and self.job.output.removed == "drop":
            for path in self.layout.rejects.glob("*.parquet"):
                if not path.name.startswith(f"{self.run}-"):
                    remove_file(path)
            if self.layout.damaged.exists():
                remove_tree(self.layout.damaged)
        faults.reach("clearing: before checkpoints go")
        self.ledger.forget_checkpoints(self._left_to_others(complete))
        held = {checkpoint.part for checkpoint in self.ledger.checkpoints()}
        gone = [path for path in self.layout.checkpoints.iterdir() if path.stem not in held]
        with ThreadPoolExecutor(REMOVERS) as pool:
            list(pool.map(_remove, gone))
        if self.layout.scratch.exists():
            remove_tree(self.layout.scratch)

    def _left_to_others(self, complete: bool) -> list[str]:
        """Runs of other jobs whose checkpoints stay: they hold rows that this run was not given.

        A look with `--limit`, a run of another input, or of another job that adds to the same dataset must not cost the
        hours of one that was interrupted. All that was in this run's own input was looked up, and an overwriting run
        is asked to keep nothing, a `complete` one that drops removed rows nothing of what its input lacks. What nobody
        comes back for goes after so many finished runs.
        """
        output = self.job.output
        if output.mode == "overwrite" or (complete and output.removed == "drop"):
            return []
        runs = self.ledger.unfinished_runs()
        own = next(run.job for run, _ in runs if run.run == self.run)

        def given(job: str) -> bool:
            return same_job(job, own) or (complete and _input(job) == _input(own))

        # This run is the last of those that have finished since.
        return [run.run for run, later in runs if later + 1 < LEFT_FOR_RUNS and not given(run.job)]


def _input(job: str) -> Any:
    """What the job reads, as the ledger has it."""
    return json.loads(job)["job"]["input"]


def _remove(path: Path) -> None:
    remove_tree(path) if path.is_dir() else remove_file(path)
