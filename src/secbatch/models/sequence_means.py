"""The mean of each sequence's hidden states."""

import torch

from secbatch.models.sequences import TokenSequences
from secbatch.models.transfer import on_device


def sequence_means(states: torch.Tensor, sequences: TokenSequences) -> torch.Tensor:
    """[T, hidden], laid end to end, to the float32 mean of each of n sequences, [n, hidden]."""
    if states.is_cuda:  # one kernel, however many lengths there are
        offsets = on_device(sequences.offsets, states.device)
        return torch.segment_reduce(states.float(), "mean", offsets=offsets)
    # Sequences of one length are a [count, length, hidden] view.
    return torch.cat(
        [
            states[first : first + count * length].view(count, length, -1).float().mean(dim=1)
            for first, count, length in sequences.groups()
        ]
    )
