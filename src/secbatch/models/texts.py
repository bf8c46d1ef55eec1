"""Texts that are a column, and become Python's strings only where somebody looks at them one by one.

Beside a GPU every list of a shard's texts is some milliseconds in which no other thread has the interpreter.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import overload

import numpy as np
import pyarrow as pa


class Texts(Sequence[str]):
    def __init__(self, column: pa.LargeStringArray) -> None:
        """`column`: without nulls."""
        self.column = column

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Texts":
        return texts if isinstance(texts, Texts) else cls(pa.array(texts, pa.large_string()))

    def take(self, numbers: np.ndarray) -> "Texts":
        return Texts(self.column.take(pa.array(numbers)))

    def alone(self, place: int) -> str:
        """One of them, without Python's strings of all, which would stay: it may be of 200 MB."""
        text: str = self.column[place].as_py()
        return text

    @cached_property
    def _strings(self) -> list[str]:
        strings: list[str] = self.column.to_pylist()
        return strings

    def __len__(self) -> int:
        return len(self.column)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        return self._strings[place]

    def __iter__(self) -> Iterator[str]:
        return iter(self._strings)
