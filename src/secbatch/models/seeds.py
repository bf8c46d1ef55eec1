"""Where torch's chance begins."""

import torch


def seed_torch(seed: int, device: "str | torch.device") -> None:
    """As `torch.manual_seed`, for the CPU and, where `device` is one, the GPUs.

    `torch.manual_seed` also keeps a formatted stack trace for each kind of device that is not there or not yet used:
    a millisecond or more, at each step of a training.
    """
    torch.default_generator.manual_seed(seed)
    if torch.device(device).type == "cuda":
        torch.cuda.manual_seed_all(seed)
