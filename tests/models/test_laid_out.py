"""Linear layers of transformers' models with weights laid out for inference: the same results, and back again."""

import pytest
import torch
from test_generation import answers, generator, llama, rows, t5
from test_generation_trial import ARCHITECTURES, made_anew, made_of
from torch import nn
from torch_threads import single_thread  # noqa: F401

from secbatch.models.generation import Generator
from secbatch.models.laid_out import FEW, LaidOut, LaidOutLayers
from secbatch.models.linear import has_blocked_layers
from secbatch.task_specs import Generation

pytestmark = pytest.mark.skipif(not has_blocked_layers(torch.float32), reason="torch lays out no weights here")
USES_WEIGHTS = "a state alone"  # Mamba's forward computes with the weights themselves


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(24,), (0, 24), (3, 5, 24), (FEW + 1, 24), (2, FEW, 24)])
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_products_are_those_of_torch_and_the_same_bits_in_any_batch(
    dtype: torch.dtype, shape: tuple[int, ...], bias: bool
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(24, 40, bias=bias, dtype=dtype)
    laid_out, x = LaidOut(layer), torch.randn(shape).to(dtype)
    made = laid_out(x)
    assert made.shape == (*shape[:-1], 40) and made.dtype == laid_out.weight.dtype == dtype
    assert torch.allclose(made.float(), layer(x).float(), atol=1e-5 if dtype == torch.float32 else 0.02)
    if made.numel():
        assert torch.equal(laid_out(x.reshape(-1, 24)[-1:])[0], made.reshape(-1, 40)[-1])


def test_what_was_changed_can_be_undone_bit_for_bit() -> None:
    inner = nn.Sequential(nn.Linear(40, 7, bias=False))
    model = nn.Sequential(nn.Linear(24, 40), nn.GELU(), inner)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    layers = LaidOutLayers(model)
    assert [type(module) for module in model.modules() if not list(module.children())] == [LaidOut, nn.GELU, LaidOut]
    layers.undo()
    assert type(model[0]) is nn.Linear and type(inner[0]) is nn.Linear
    assert {name: weight.tolist() for name, weight in model.state_dict().items()} == {
        name: weight.tolist() for name, weight in before.items()
    }


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("kind", ["llama", "t5", *ARCHITECTURES])
def test_a_model_that_writes_gets_the_layout_and_gives_the_same_tokens(kind: str, beams: int) -> None:
    build = {"llama": llama, "t5": t5}.get(kind, lambda: made_anew(kind))
    job = Generation(max_new_tokens=8, num_beams=1 if kind.endswith("kind") else beams)
    kept, model = build(), build()
    owned = Generator(model, generator(kept, job).settings, owned=True)
    assert made_of(owned) == made_of(generator(kept, job))
    asked = rows(kept, 6)
    assert [answer.tokens for answer in owned.generate(asked).answers] == answers(kept, job, asked)
    if not owned.stock and kind != USES_WEIGHTS:
        assert not any(type(module) is nn.Linear for module in model.modules())


def test_a_model_that_others_use_is_left_as_it_is() -> None:
    model = llama()
    generator(model, Generation(max_new_tokens=4))
    assert not any(isinstance(module, LaidOut) for module in model.modules())


@pytest.mark.parametrize("fault", ["weight", "scores"])
def test_a_model_that_does_not_take_such_layers_keeps_its_own(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, model = llama(), llama()
    job = Generation(max_new_tokens=4)
    settings = generator(kept, job).settings
    if fault == "weight":  # a model whose forward computes with the weight itself
        mlp = type(model.model.layers[0].mlp)
        monkeypatch.setattr(mlp, "forward", lambda self, x: self.down_proj(x @ self.up_proj.weight.t()))
    else:
        forward = LaidOut.forward
        monkeypatch.setattr(LaidOut, "forward", lambda self, x: forward(self, x).flip(-1))
    made = Generator(model, settings, owned=True)
    assert not any(isinstance(module, LaidOut) for module in model.modules())
    assert [a.tokens for a in made.generate(rows(kept, 4)).answers] == answers(kept, job, rows(kept, 4))
