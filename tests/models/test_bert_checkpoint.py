"""BERT and RoBERTa without transformers' modelling code: the same numbers, and only from checkpoints that are known."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_models import resolved

from secbatch.models import bert_checkpoint
from secbatch.models.bert_modules import PREFIXES
from secbatch.models.configuration import load_config
from secbatch.models.device import choose
from secbatch.models.load import load_model
from secbatch.models.model_kinds import AUTO_CLASSES, Kind
from secbatch.models.packed_encoder import let_go_of_layers
from secbatch.models.resolved import ResolvedModel

CPU = choose("cpu", "float32")
HEADS: tuple[Kind, ...] = ("masked-lm", "sequence-classification", "token-classification", "question-answering")
Tensors = dict[str, torch.Tensor]


def saved(folder: Path, family: str, kind: Kind, **changes: Any) -> ResolvedModel:
    config = transformers.CONFIG_MAPPING[family](
        **{
            "vocab_size": 99,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "max_position_embeddings": 40,
            "type_vocab_size": 2,
            "pad_token_id": 1,
            "num_labels": 2 if kind == "question-answering" else 3,
            **changes,
        }
    )
    torch.manual_seed(0)
    model = getattr(transformers, AUTO_CLASSES[kind][0]).from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0.0, 0.3)
    model.save_pretrained(folder)
    return resolved(folder)


def plain(model: ResolvedModel, kind: Kind, dtype: torch.dtype = torch.float32) -> Any:
    return bert_checkpoint.read_bert(model, load_config(model), kind, dtype)


@torch.inference_mode()
def outputs(model: Any, family: str) -> torch.Tensor:
    """Of two padded texts at their own tokens, where BERT tells two types apart; or of each text alone."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 99, (2, 9), generator=generator)
    mask = torch.ones_like(ids)
    ids[1, 5:], mask[1, 5:] = 1, 0
    types = {"token_type_ids": torch.randint(0, 2, ids.shape, generator=generator)} if family == "bert" else {}
    output = model(input_ids=ids, attention_mask=mask, **types)
    first: torch.Tensor = torch.stack(output[:2], -1) if "start_logits" in output else output[0]
    return first[mask.bool()] if first.dim() == 3 else first


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("family", PREFIXES)
def test_the_same_numbers_as_transformers(tmp_path: Path, family: str, kind: Kind) -> None:
    model = saved(tmp_path, family, kind)
    theirs = getattr(transformers, AUTO_CLASSES[kind][0]).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(outputs(plain(model, kind), family), outputs(theirs, family), rtol=0, atol=1e-6)
    encoder = transformers.AutoModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(outputs(plain(model, "encoder"), family), outputs(encoder, family), rtol=0, atol=1e-6)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_activations_and_untyped_models(tmp_path: Path, activation: str) -> None:
    model = saved(tmp_path, "bert", "masked-lm", hidden_act=activation, type_vocab_size=1, layer_norm_eps=0.1)
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(outputs(plain(model, "masked-lm"), "roberta"), outputs(theirs, "roberta"))


def test_a_pickle_of_tensors_with_what_earlier_versions_wrote(tmp_path: Path) -> None:
    """As SecureBERT's: positions as a buffer, the vocabulary's weights and bias under two names each."""
    model = saved(tmp_path, "roberta", "masked-lm")
    wanted = outputs(plain(model, "masked-lm"), "roberta")
    state = load_file(tmp_path / "model.safetensors")
    state["roberta.embeddings.position_ids"] = torch.arange(40)[None]
    state["lm_head.decoder.weight"] = state["roberta.embeddings.word_embeddings.weight"]
    state["lm_head.decoder.bias"] = state["lm_head.bias"]
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert torch.equal(outputs(plain(model, "masked-lm"), "roberta"), wanted)
    assert "are a pickle" in load_model(model, "masked-lm", CPU).notices[0]
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert plain(model, "masked-lm") is None
    torch.save([state], tmp_path / "pytorch_model.bin")
    assert plain(model, "masked-lm") is None


def test_numbers_are_brought_to_the_format_asked_for(tmp_path: Path) -> None:
    model = saved(tmp_path, "roberta", "masked-lm")
    state = load_file(tmp_path / "model.safetensors")
    save_file({name: tensor.half() for name, tensor in state.items()}, tmp_path / "model.safetensors")
    made = plain(model, "masked-lm", torch.bfloat16)
    assert {weight.dtype for weight in made.parameters()} == {torch.bfloat16}
    assert made.lm_head.decoder.weight is made.get_input_embeddings().weight


@pytest.mark.parametrize("twice", [False, True])
def test_a_vocabulary_is_brought_to_the_format_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, twice: bool
) -> None:
    """Of XLM-R's a second copy is 732 MiB of the peak."""
    model = saved(tmp_path, "roberta", "masked-lm")
    if twice:
        state = load_file(tmp_path / "model.safetensors")
        state["lm_head.decoder.weight"] = state["roberta.embeddings.word_embeddings.weight"].clone()
        save_file(state, tmp_path / "model.safetensors")
    shapes, to = [], torch.Tensor.to

    def spied(tensor: torch.Tensor, *how: Any) -> torch.Tensor:
        shapes.append(tuple(tensor.shape))
        return to(tensor, *how)

    monkeypatch.setattr(torch.Tensor, "to", spied)
    assert plain(model, "masked-lm", torch.bfloat16) is not None
    assert shapes.count((99, 32)) == 1


def missing(state: Tensors) -> None:
    del state["roberta.encoder.layer.1.output.dense.bias"]


def more_layers(state: Tensors) -> None:
    state["roberta.encoder.layer.2.output.dense.bias"] = torch.zeros(32)


def another_shape(state: Tensors) -> None:
    state["roberta.encoder.layer.1.output.dense.weight"] = torch.zeros(48, 32)


def whole_numbers(state: Tensors) -> None:
    state["roberta.encoder.layer.1.output.dense.weight"] = torch.zeros(32, 48, dtype=torch.int8)


def unknown(state: Tensors) -> None:
    state["roberta.adapter.weight"] = torch.zeros(2)


def two_vocabularies(state: Tensors) -> None:
    state["lm_head.decoder.weight"] = state["roberta.embeddings.word_embeddings.weight"] + 1


def two_biases(state: Tensors) -> None:
    state["lm_head.decoder.bias"] = state["lm_head.bias"] + 1


def two_formats(state: Tensors) -> None:
    state["lm_head.decoder.weight"] = state["roberta.embeddings.word_embeddings.weight"].half()


def bare_and_not(state: Tensors) -> None:
    state["embeddings.word_embeddings.weight"] = state["roberta.embeddings.word_embeddings.weight"] + 1


@pytest.mark.parametrize("kind", ["masked-lm", "encoder"])
@pytest.mark.parametrize("change", [missing, more_layers, another_shape, whole_numbers, unknown, bare_and_not])
def test_other_weights_are_left_to_transformers(tmp_path: Path, change: Callable[[Tensors], None], kind: Kind) -> None:
    model = saved(tmp_path, "roberta", "masked-lm")
    assert plain(model, kind) is not None
    state = load_file(tmp_path / "model.safetensors")
    change(state)
    save_file(state, tmp_path / "model.safetensors")
    assert plain(model, kind) is None


@pytest.mark.parametrize("change", [two_vocabularies, two_biases, two_formats])
def test_a_vocabulary_of_its_own_is_left_to_transformers(tmp_path: Path, change: Callable[[Tensors], None]) -> None:
    model = saved(tmp_path, "roberta", "masked-lm")
    state = load_file(tmp_path / "model.safetensors")
    change(state)
    save_file(state, tmp_path / "model.safetensors")
    assert plain(model, "masked-lm") is None
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    loaded = load_model(model, "masked-lm", CPU).model
    torch.testing.assert_close(outputs(loaded, "roberta"), outputs(theirs, "roberta"))


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_act": "gelu_new"},
        {"is_decoder": True},
        {"is_decoder": True, "add_cross_attention": True},
        {"tie_word_embeddings": False},
        {"position_embedding_type": "relative_key"},
        {"pruned_heads": {"0": [1]}},
        {"quantization_config": {"quant_method": "bitsandbytes"}},
        {"num_attention_heads": 5},
        {"num_attention_heads": 0},
        {"num_attention_heads": -4},
        {"pad_token_id": None},
        {"pad_token_id": -1},
        {"pad_token_id": 40},
        {"model_type": "roberta-prelayernorm"},
    ],
    ids=str,
)
def test_other_configurations_are_left_to_transformers(tmp_path: Path, change: dict[str, Any]) -> None:
    model = saved(tmp_path, "roberta", "masked-lm")
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert plain(model, "masked-lm") is None


def test_other_numbers_of_answers_are_left_to_transformers(tmp_path: Path) -> None:
    assert plain(saved(tmp_path, "bert", "question-answering", num_labels=3), "question-answering") is None


def test_weights_in_several_files_are_left_to_transformers(tmp_path: Path) -> None:
    model = saved(tmp_path, "roberta", "masked-lm")
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert plain(model, "masked-lm") is None
    assert load_model(model, "masked-lm", CPU).model.num_parameters() == theirs.num_parameters()


@pytest.mark.parametrize("pickled", [False, True])
def test_the_layers_matrices_are_mapped_by_themselves_and_let_go_of(tmp_path: Path, pickled: bool) -> None:
    model = saved(tmp_path, "roberta", "masked-lm")
    path = tmp_path / "model.safetensors"
    if pickled:
        state = {name: tensor.clone() for name, tensor in load_file(path).items()}
        path = path.rename(tmp_path / "pytorch_model.bin")
        torch.save(state, path)

    def mappings() -> int:
        return Path("/proc/self/maps").read_text().count(str(path))

    made = plain(model, "masked-lm")
    assert mappings() == 2
    let_go_of_layers(made.base_model)
    assert mappings() == 1


def test_one_mapping_serves_where_there_is_no_room_for_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RoBERTa-base in 2,400 MiB of address space."""
    model = saved(tmp_path, "roberta", "masked-lm")
    wanted, mapped, taken = outputs(plain(model, "masked-lm"), "roberta"), bert_checkpoint._tensors, []

    def once(file: Path) -> Any:
        taken.append(file)
        if len(taken) > 1:
            raise RuntimeError(f"unable to mmap 498813948 bytes from file <{file}>: Cannot allocate memory (12)")
        return mapped(file)

    monkeypatch.setattr(bert_checkpoint, "_tensors", once)
    assert torch.equal(outputs(plain(model, "masked-lm"), "roberta"), wanted)


def test_a_run_does_not_import_modelling_code(tmp_path: Path) -> None:
    """It takes a fifth of a start: torch's compiler and its parts for many machines are imported with it."""
    (tmp_path / "text.csv").write_text("text\nA <mask> attack\n")
    code = (
        "import sys; from secbatch.cli.main import main\n"
        "try: main(['enrich', 'text.csv', '-o', 'out', '--mask', 'text', '--mask-model', 'builtin/mlm'])\n"
        "except SystemExit as end: assert not end.code\n"
        "print('transformers.modeling_utils' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False", done.stdout + done.stderr
