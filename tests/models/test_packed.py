"""How batches are cut into blocks."""

import numpy as np
import pytest

from secbatch.models.packed import BLOCK_TOKENS, ROWS, block_ends, blocks
from secbatch.models.sequences import TokenSequences


def sizes_of(lengths: np.ndarray) -> np.ndarray:
    ends = block_ends(np.cumsum(lengths))
    assert ends[-1] == len(lengths) and all(np.diff([0, *ends]) > 0)
    return np.add.reduceat(lengths, [0, *ends[:-1]])


def test_blocks_are_full_and_hold_little_filling() -> None:
    generator = np.random.default_rng(3)
    lengths = np.sort(generator.integers(4, 60, 2_000))[::-1]
    sizes = sizes_of(lengths)
    assert sizes.max() <= BLOCK_TOKENS and sizes[:-1].min() >= BLOCK_TOKENS * 3 // 4
    assert (-sizes % ROWS).sum() < 0.006 * lengths.sum()


@pytest.mark.parametrize("lengths", [[1], [5000], [5000, 4000, 20], [1024] * 3, [513] * 5, [512] * 5, [3] * 1000])
def test_every_sequence_is_in_one_block(lengths: list[int]) -> None:
    sizes = sizes_of(np.array(lengths))
    assert sizes.sum() == sum(lengths)
    assert all(size <= BLOCK_TOKENS or size in lengths for size in sizes)


def test_a_block_holds_its_sequences() -> None:
    lengths = np.arange(130, 0, -1)
    generator = np.random.default_rng(4)
    ids = generator.integers(0, 1000, lengths.sum()).astype(np.int32)
    types = generator.integers(0, 2, lengths.sum()).astype(np.int32)
    sequences = TokenSequences(ids, np.concatenate([[0], np.cumsum(lengths)]), types)
    parts = blocks(sequences, "cpu")
    assert len(parts) > 3 and all(len(part.ids) % ROWS == 0 for part in parts)
    assert np.array_equal(np.concatenate([part.ids[: part.tokens] for part in parts]), ids)
    assert all(part.types is not None for part in parts)
    assert np.array_equal(
        np.concatenate([part.types[: part.tokens] for part in parts if part.types is not None]), types
    )
    wanted = np.concatenate([np.arange(length) for length in lengths])
    assert np.array_equal(np.concatenate([part.positions[: part.tokens] for part in parts]), wanted)
    assert [group for part in parts for group in part.groups if group[0] == 0]
    assert sum(count * length for part in parts for _, count, length in part.groups) == len(ids)
