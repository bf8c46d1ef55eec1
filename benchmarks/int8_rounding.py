"""Ways to round the operands of a product to 8 bits, kept in float32."""

import torch

BLOCK = 128  # columns that are rounded before the rest of the weights learns of their errors


def symmetric(values: torch.Tensor) -> torch.Tensor:
    """Rows of [n, m] rounded to -127 … 127 times a scale of their own."""
    scale = values.abs().amax(1, keepdim=True).clamp(min=1e-9) / 127
    return (values / scale).round() * scale


def asymmetric(values: torch.Tensor) -> torch.Tensor:
    """Rows of [n, m] rounded to 256 steps from their smallest value, or 0, to their largest."""
    low, high = values.amin(1, keepdim=True).clamp(max=0), values.amax(1, keepdim=True).clamp(min=0)
    scale = (high - low).clamp(min=1e-9) / 255
    zero = (-low / scale).round()
    return ((values / scale).round() + zero).clamp(0, 255).sub(zero) * scale


def in_two_parts(values: torch.Tensor) -> torch.Tensor:
    """Rows of [n, m] as 8 bits and, of what these leave over, 8 bits more: two products instead of one."""
    high = asymmetric(values)
    return high + asymmetric(values - high)


def compensated(weight: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """`weight` [out, in] rounded as by `symmetric`, each column's errors made good by the columns after it.

    GPTQ (Frantar et al. 2022, arXiv:2210.17323), columns of large inputs first. `inputs`: [n, in].
    """
    inputs = inputs.double()
    order = torch.argsort(inputs.square().sum(0), descending=True)
    rest, second = weight.double()[:, order], (inputs.T @ inputs)[order][:, order] / len(inputs)
    second += 0.01 * second.diag().mean() * torch.eye(len(order), dtype=torch.float64)
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(second)), upper=True)
    scale, rounded = weight.double().abs().amax(1) / 127, torch.empty_like(rest)
    for first in range(0, len(order), BLOCK):
        end = min(first + BLOCK, len(order))
        errors = torch.empty(len(weight), end - first, dtype=torch.float64)
        for column in range(first, end):
            rounded[:, column] = (rest[:, column] / scale).round().clamp(-127, 127) * scale
            error = (rest[:, column] - rounded[:, column]) / inverse[column, column]
            rest[:, column + 1 : end] -= error[:, None] * inverse[column, column + 1 : end]
            errors[:, column - first] = error
        rest[:, end:] -= errors @ inverse[first:end, end:]
    return rounded[:, torch.argsort(order)].float()


def smoothing(weight: torch.Tensor, inputs: torch.Tensor, strength: float) -> torch.Tensor:
    """Factors [in] by which inputs are divided and weights multiplied, so that both are easier to round.

    SmoothQuant (Xiao et al. 2022, arXiv:2211.10438), eq. 4. `weight`: [out, in], `inputs`: [n, in].
    """
    of_inputs, of_weights = (values.abs().amax(0).clamp(min=1e-3) for values in (inputs, weight))
    return of_inputs**strength / of_weights ** (1 - strength)


def widest(inputs: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` channels of `inputs` [n, in] that reach farthest from their median."""
    return torch.topk((inputs - inputs.median(0).values).abs().amax(0), min(count, inputs.shape[1])).indices
