"""A pretended GPU refuses, and waits for, what a real one does."""

import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from pretended_gpu import Gpu, pretended_gpu
from torch import Tensor

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real GPU")


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    with pretended_gpu(count=2) as gpu:
        yield gpu


def test_it_is_gone_afterwards() -> None:
    with pretended_gpu():
        assert torch.cuda.is_available() and torch.ones(2, device="cuda").is_cuda
    assert not torch.cuda.is_available() and not torch.ones(2).is_cuda


def test_what_is_made_from_its_tensors_is_there_too(gpu: Gpu) -> None:
    module = torch.nn.Linear(3, 2).to("cuda:1")
    x = torch.arange(6.0, device="cuda:1").view(2, 3)
    for one in (module.weight, module(x), x[:, 1:], x.new_zeros(2), torch.cat([x, x]), x.to(torch.float64)):
        assert one.device == torch.device("cuda:1") and not one.is_cpu
    assert module(x).tolist() == module.cpu()(x.cpu()).tolist()


def test_threads_that_begin_there_have_it(gpu: Gpu) -> None:
    found: list[torch.device] = []
    thread = threading.Thread(target=lambda: found.append(torch.ones(2, device="cuda").device))
    thread.start()
    thread.join()
    assert found == [torch.device("cuda:0")]


MISTAKES: dict[str, Callable[[Tensor, Tensor], object]] = {
    "operands of both": lambda there, here: there + here,
    "operands of two GPUs": lambda there, here: there + there.to("cuda:1"),
    "a matrix product": lambda there, here: there[None] @ here[:, None],
    "one array": lambda there, here: torch.cat([there, here]),
    "written in place": lambda there, here: there.mul_(here),
    "an index on the GPU": lambda there, here: here[there.long()],
    "numbers without a copy": lambda there, here: there.numpy(),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_the_host_s_tensors_are_elsewhere(mistake: Callable[[Tensor, Tensor], object], gpu: Gpu) -> None:
    with pytest.raises((RuntimeError, TypeError, AssertionError), match=r"same device|numpy|on the host"):
        mistake(torch.ones(3, device="cuda"), torch.ones(3))


WAITS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "item": lambda there, here: there.sum().item(),
    "if": lambda there, here: bool(there.any()),
    "tolist": lambda there, here: there.tolist(),
    "a mask": lambda there, here: there[there > 0],
    "nonzero": lambda there, here: there.nonzero(),
    "to the host": lambda there, here: there.cpu(),
    "from the host": lambda there, here: here.to("cuda"),
    "from a list": lambda there, here: torch.tensor([1.0], device="cuda"),
    "an index from the host": lambda there, here: there[here.long()],
    "a copy": lambda there, here: there.copy_(here),
    "pageable memory": lambda there, here: here.to("cuda", non_blocking=True),
}
NO_WAITS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "a product": lambda there, here: there * 2 + torch.tensor(1.0),
    "made there": lambda there, here: torch.full((2,), 1.0, device="cuda"),
    "a mask that is applied": lambda there, here: there.masked_fill(there > 0, 1.0).where(there > 0, 0.0),
    "pinned memory": lambda there, here: here.pin_memory().to("cuda", non_blocking=True),
    "made in pinned memory": lambda *_: torch.ones(2, pin_memory=True).to("cuda", non_blocking=True),
    "to pinned memory": lambda there, here: there.to("cpu", non_blocking=True),
    "of the host alone": lambda there, here: here[here > 0].tolist(),
}


@pytest.mark.parametrize("call", [*WAITS, *NO_WAITS])
def test_waits_are_noted(call: str, gpu: Gpu) -> None:
    there, here = torch.ones(3).cuda(), torch.ones(3)
    gpu.waits.clear()
    (WAITS | NO_WAITS)[call](there, here)
    assert gpu.waits.total() == (call in WAITS)


def test_results_are_on_their_way_until_somebody_waits(gpu: Gpu) -> None:
    first = torch.arange(3.0, device="cuda").to("cpu", non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    second = torch.arange(3.0, device="cuda").to("cpu", non_blocking=True)
    assert first.tolist() != [0, 1, 2]
    arrived.synchronize()
    assert first.tolist() == [0, 1, 2] and second.tolist() != [0, 1, 2]
    torch.cuda.synchronize()
    assert second.tolist() == [0, 1, 2]


def test_an_index_that_leads_nowhere_ends_its_work_for_good(gpu: Gpu) -> None:
    table = torch.ones(3, device="cuda")
    for one in (torch.tensor([3], device="cuda"), torch.tensor([0], device="cuda")):
        with pytest.raises(RuntimeError, match="device-side assert"):
            table.index_select(0, one)
    assert gpu.lost


def test_what_is_recorded_runs_at_each_replay_on_the_same_memory(gpu: Gpu) -> None:
    graph, given = torch.cuda.CUDAGraph(), torch.ones(2, device="cuda")
    with torch.cuda.graph(graph):
        made = given.view(2, 1) * 2
        made = made.add_(1)
        with pytest.raises(RuntimeError, match="capturing"):
            made.sum().item()
    assert made.flatten().tolist() != [3, 3]  # what is recorded has not run
    for number in (1.0, 5.0):
        given.fill_(number)
        graph.replay()
        assert made.flatten().tolist() == [2 * number + 1] * 2


def test_memory_is_counted_and_may_be_short(gpu: Gpu) -> None:
    before = gpu.bytes_in_use()
    kept = torch.zeros(100, dtype=torch.uint8, device="cuda")
    assert gpu.bytes_in_use() - before == 100
    del kept

    def fail(number: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    gpu.before_allocation = fail
    with pytest.raises(torch.OutOfMemoryError):
        torch.zeros(100, device="cuda")
    assert gpu.bytes_in_use() == before
