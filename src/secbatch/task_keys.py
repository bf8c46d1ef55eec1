"""What of a row decides a task's result: the columns it reads, the turns before it, the task's fingerprint.

Where results are drawn by chance, the row's identity as well: it is the seed.
"""

import hashlib
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from secbatch.row_hash import hash_columns, mixed
from secbatch.tasks.base import ConversationTask, SamplingTask, Task


def task_keys(
    tasks: Mapping[str, Task], fingerprints: Mapping[str, str], table: pa.Table, ids: np.ndarray, rejected: list[int]
) -> dict[str, np.ndarray]:
    """task -> uint64 [n, 2]. The same key means the same result; zeros where no task may use the row.

    `ids`: uint64 [n, 2], digests of the rows' identities.
    """
    read: dict[tuple[str, ...], np.ndarray] = {}  # tasks that read the same columns share the hashing
    keys = {}
    usable = np.ones(table.num_rows, bool)
    usable[rejected] = False
    for name, task in tasks.items():
        columns = tuple(sorted(task.reads))
        if columns not in read:
            read[columns] = hash_columns(table, list(columns))
        inputs = read[columns]
        if isinstance(task, SamplingTask) and task.samples:
            inputs = mixed(inputs, ids[:, 0])
        together = conversation_column(task)
        if together:
            inputs = _with_history(inputs, table.column(together), usable)
        own = np.frombuffer(hashlib.blake2b(fingerprints[name].encode(), digest_size=16).digest(), dtype="<u8")
        keys[name] = inputs ^ own
        keys[name][rejected] = 0
    return keys


def after_unanswered(
    tasks: Mapping[str, Task], done: dict[str, np.ndarray], table: pa.Table, unanswered: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """`done`, in which turns after `unanswered` ones have other keys than after the answers to these.

    `unanswered`: task -> bool [n], of the tasks with conversations.
    """
    done = dict(done)
    for name, rows in unanswered.items():
        column = conversation_column(tasks[name])
        if column and rows.any():
            done[name] = _after_unanswered(done[name], conversations(table.column(column)), rows)
    return done


def in_conversations(task: Task) -> ConversationTask | None:
    """The task, where it asks rows together."""
    return task if isinstance(task, ConversationTask) and task.conversation_column else None


def conversation_column(task: Task) -> str | None:
    """The column whose equal neighbouring values make rows of one conversation, where the task has these."""
    return task.conversation_column if isinstance(task, ConversationTask) else None


def conversations(column: pa.ChunkedArray) -> np.ndarray:
    """int64 [n]: number of each row's conversation; a row without an id is one of its own."""
    ids = column.to_pylist()
    starts = [
        place == 0 or value in (None, "") or value != before
        for place, (value, before) in enumerate(zip(ids, [None, *ids], strict=False))
    ]
    return np.cumsum(np.array(starts, dtype=np.int64)) - 1


def _after_unanswered(keys: np.ndarray, numbers: np.ndarray, unanswered: np.ndarray) -> np.ndarray:
    """`numbers`: int64 [n], ascending, of the rows' conversations."""
    asked = keys.any(axis=1)
    rows = np.flatnonzero(unanswered & asked)
    marks = np.zeros((len(rows) + 1, 2), np.uint64)  # of each of these rows and those before it in its conversation
    for place, row in enumerate(rows):
        before = marks[place - 1] if place and numbers[rows[place - 1]] == numbers[row] else marks[-1]
        own = hashlib.blake2b((keys[row] ^ before).tobytes(), digest_size=16).digest()
        marks[place] = before ^ np.frombuffer(own, dtype="<u8")
    last = np.searchsorted(rows, np.arange(len(keys))) - 1  # of these rows, the last one before each row
    later = np.flatnonzero(asked & (last >= 0))
    later = later[numbers[rows[last[later]]] == numbers[later]]
    keys = keys.copy()
    keys[later] ^= marks[last[later]]
    return keys


def conversations_held(tasks: Mapping[str, Task], table: pa.Table) -> np.ndarray | None:
    """As `conversations`, by the column that the tasks have them by; None where no task holds any."""
    columns = (conversation_column(task) for task in tasks.values())
    column = next(filter(None, columns), None)
    return conversations(table.column(column)) if column else None


def _with_history(inputs: np.ndarray, column: pa.ChunkedArray, usable: np.ndarray) -> np.ndarray:
    """Each turn's digest with those of the turns before it worked in; of the `usable` ones, as others are not asked."""
    result = inputs.copy()
    turns = np.flatnonzero(usable)
    numbers = conversations(column)[turns]
    for place in np.flatnonzero(numbers[1:] == numbers[:-1]) + 1:
        joined = result[turns[place - 1]].tobytes() + inputs[turns[place]].tobytes()
        result[turns[place]] = np.frombuffer(hashlib.blake2b(joined, digest_size=16).digest(), dtype="<u8")
    return result
