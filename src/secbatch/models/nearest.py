"""The rows of a large matrix that are nearest to each of many vectors: exact, block by block.

Every product of the two is computed, none is guessed at; only a block of them exists at a time. Equal scores are
ranked in the order of the rows.
"""

import numpy as np
import torch
from torch import Tensor

from secbatch.errors import SecbatchError, counted
from secbatch.models.generation_scores import largest
from secbatch.models.linear import Linear, has_blocked_layers
from secbatch.models.memory_patience import MemoryPatience, Next
from secbatch.models.out_of_memory import give_back, is_out_of_memory

# Rows of the matrix, and vectors, whose products exist at a time: 64 MB on a CPU, 1 GB on a GPU.
CPU_BLOCK, CUDA_BLOCK = (16_384, 1024), (65_536, 4096)
KEPT = 1 << 30  # bytes of the matrix that stay on the device in the layout of the product; a larger one is brought anew
PAUSES = 4  # for memory, four seconds in all: results of a GPU are compared on a thread that no interrupt reaches
FILLED = 64  # vectors are filled up to a multiple: fewer sizes of product, each row the same in all of them


class NearestRows:
    """A matrix [R, width] float32, laid out for products; `vectors` may be a memory map."""

    def __init__(self, matrix: np.ndarray, device: str, block: tuple[int, int] | None = None) -> None:
        self.matrix, self.device = matrix, device
        self._rows, self._vectors = block or (CUDA_BLOCK if device.startswith("cuda") else CPU_BLOCK)
        self._kept: dict[int, Linear] = {}
        self._keeps = matrix.nbytes <= KEPT
        self._patience = MemoryPatience(device, PAUSES)

    @property
    def batch_free(self) -> bool:
        """Whether a vector's scores are the same bits whatever vectors stand beside it."""
        return self.device == "cpu" and has_blocked_layers(torch.float32)

    @torch.inference_mode()
    def best(self, vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The best `count` rows for each of `vectors` [n, width] float32, or all rows where there are fewer.

        Returns scores [n, k] float32, best first, and their rows [n, k] int64. A score that is no number comes first.
        Raises SecbatchError when the device has no memory for a single vector.
        """
        count = min(count, len(self.matrix))
        scores = np.empty((len(vectors), count), np.float32)
        rows = np.empty((len(vectors), count), np.int64)
        start = 0
        while start < len(vectors):
            part = slice(start, min(start + self._vectors, len(vectors)))
            size = part.stop - start
            try:
                best, place = self._best(_filled(vectors[part]), count)
                scores[part], rows[part] = best[:size].cpu().numpy(), place[:size].cpu().numpy()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            else:
                self._patience.went_through((size,))
                start = part.stop
                continue
            give_back(self.device)
            match self._patience.after_failure((size,), alone=size == 1, last=True):
                case Next.FEWER:
                    self._vectors = max(1, min(self._vectors, size) // 2)
                case Next.NEVER:
                    raise SecbatchError(
                        f"there is no memory on {self.device} to compare a text with the"
                        f" {counted(len(self.matrix), 'row')} of the reference; run the same command again once there"
                        " is some, what is finished is kept"
                    )
        return scores, rows

    def _best(self, vectors: np.ndarray, count: int) -> tuple[Tensor, Tensor]:
        given = torch.from_numpy(vectors).to(self.device)
        best, rows = given.new_empty(len(given), 0), torch.empty(len(given), 0, dtype=torch.int64, device=self.device)
        for first in range(0, len(self.matrix), self._rows):
            products = self._block(first)(given)  # [n, rows of the block]
            some, where = top(products, min(count, products.shape[1]))
            # Stable: of equal scores the earlier row comes first, and earlier blocks stand before this one.
            merged = torch.cat([best, some], 1).sort(dim=1, descending=True, stable=True)
            best = merged.values[:, :count]
            rows = torch.cat([rows, where + first], 1).gather(1, merged.indices[:, :count])
        return best, rows

    def _block(self, first: int) -> Linear:
        if first in self._kept:
            return self._kept[first]
        made = Linear(torch.from_numpy(np.array(self.matrix[first : first + self._rows])).to(self.device), None)
        if self._keeps:
            self._kept[first] = made
        return made


def top(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of scores [n, m], best first, and their places; of equal ones the first come first.

    `topk` leaves open which of equal values it takes and in which order it gives them.
    """
    values, places = largest(scores, count)
    last = values[:, -1:]
    tied = ((scores >= last).sum(1) > count).nonzero()[:, 0]
    if len(tied):
        some, least = scores[tied], last[tied]
        above, equal = some > least, some == least
        room = count - above.sum(1, keepdim=True)
        places[tied] = (above | (equal & (equal.cumsum(1) <= room))).nonzero()[:, 1].view(-1, count)
    places = places.sort(dim=1).values
    ordered = scores.gather(1, places).sort(dim=1, descending=True, stable=True)
    return ordered.values, places.gather(1, ordered.indices)


def _filled(vectors: np.ndarray) -> np.ndarray:
    missing = -len(vectors) % FILLED
    return np.concatenate([vectors, np.zeros((missing, vectors.shape[1]), np.float32)]) if missing else vectors
