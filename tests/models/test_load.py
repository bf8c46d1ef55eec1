"""Model folders: good ones, broken ones, and ones that would run code."""

import json
import pickle
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import resolved, roberta_tokenizer
from transformers import AutoConfig, MPNetConfig, MPNetModel
from transformers.utils import logging

from secbatch.errors import Interrupted, ModelError
from secbatch.models.configuration import load_config
from secbatch.models.content_hash import tokenizer_hash
from secbatch.models.device import choose
from secbatch.models.load import check_vocabulary, load_model
from secbatch.models.resolve import resolve
from secbatch.models.resolved import ResolvedModel
from secbatch.models.tokenizer_files import load_tokenizer, max_positions

CPU = choose("cpu", "float32")
Tiny = Callable[[str], ResolvedModel]


@pytest.fixture
def folder(tiny: Tiny, tmp_path: Path) -> Path:
    """A RoBERTa of this test's own to spoil."""
    return Path(shutil.copytree(tiny("roberta").folder, tmp_path / "model"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("kind", "purpose"),
    [
        ("roberta", "masked-lm"),
        ("bert", "encoder"),
        ("modernbert", "masked-lm"),
        ("blenderbot", "seq2seq"),
        ("llama_chat", "causal"),
    ],
)
def test_loads_quietly(tiny: Tiny, capfd: pytest.CaptureFixture[str], kind: str, purpose: str) -> None:
    model = tiny(kind)
    capfd.readouterr()
    loaded = load_model(model, purpose, CPU)  # type: ignore[arg-type]
    assert not loaded.model.training and loaded.model.get_input_embeddings().weight.dtype == torch.float32
    assert loaded.notices == ()
    assert capfd.readouterr() == ("", "")


def test_positions_of_mpnet_start_after_the_second_whatever_its_padding() -> None:
    config = MPNetConfig(vocab_size=50, max_position_embeddings=66, pad_token_id=0)
    base = MPNetModel(MPNetConfig(**config.to_dict() | {"hidden_size": 24, "num_attention_heads": 2}))
    limit = max_positions(config, roberta_tokenizer())
    assert base(input_ids=torch.full((1, limit), 5))[0].shape[1] == limit == 64
    with pytest.raises(IndexError):
        base(input_ids=torch.full((1, limit + 1), 5))


def test_positions_of_roberta_start_after_the_padding_index(tiny: Tiny) -> None:
    assert load_config(tiny("roberta")).max_position_embeddings == 66
    assert load_tokenizer(tiny("roberta")).max_length == 64
    assert load_tokenizer(tiny("bert")).max_length == 64


@pytest.mark.parametrize("longest", [-1, 1, 2, True])
def test_a_tokenizer_that_leaves_no_room_for_a_text_is_refused(folder: Path, longest: int) -> None:
    edit(folder / "tokenizer_config.json", model_max_length=longest)
    with pytest.raises(ModelError, match=f"may have {int(longest)} tokens.* 2 of them are special .* no room"):
        load_tokenizer(resolved(folder))
    edit(folder / "tokenizer_config.json", model_max_length=3)
    assert load_tokenizer(resolved(folder)).max_length == 3


def test_bfloat16(tiny: Tiny) -> None:
    model = load_model(tiny("roberta"), "masked-lm", replace(CPU, dtype="bfloat16")).model
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16


def test_roberta_of_vocabulary_and_merges_gets_its_lstrip(folder: Path) -> None:
    spec = json.loads((folder / "tokenizer.json").read_text())["model"]
    for path in folder.glob("*token*"):
        path.unlink()
    (folder / "vocab.json").write_text(json.dumps(spec["vocab"]))
    merges = [" ".join(pair) for pair in spec["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    tokenizer = load_tokenizer(resolved(folder))
    reference = roberta_tokenizer()
    text = "A <mask> injection in <mask>, and\t<mask>."
    words = [tokenizer.hf.convert_ids_to_tokens(int(token)) for token in tokenizer.encode([text])[0]]
    assert words == reference.convert_ids_to_tokens(reference(text).input_ids)
    assert words[:3] == ["<s>", "A", "<mask>"]


def test_a_pickle_is_read_without_running_it_and_said(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    loaded = load_model(resolved(folder), "masked-lm", CPU)
    assert "pickle (pytorch_model.bin)" in loaded.notices[0]


class _Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def test_a_hostile_pickle_does_not_run(folder: Path) -> None:
    canary = folder / "ran"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Canary(canary)))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model tiny: its weights in .* are a pickle that is broken or holds more"):
        load_model(resolved(folder), "masked-lm", CPU)
    torch.save({"weight": _Canary(canary)}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"model tiny: its weights in .* are a pickle that is broken or holds more"):
        load_model(resolved(folder), "masked-lm", CPU)
    assert not canary.exists()


def test_code_of_a_model_does_not_run(folder: Path) -> None:
    canary = folder / "ran"
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w').close()\n")
    auto_map = dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForMaskedLM"), "evil.Evil")
    edit(folder / "config.json", model_type="evil", auto_map=auto_map)
    for load in (load_config, load_tokenizer, lambda model: load_model(model, "masked-lm", CPU)):
        with pytest.raises(ModelError, match=r"brings code of its own \(auto_map in config.json\)"):
            load(resolved(folder))
    assert not canary.exists()


def test_code_beside_a_known_architecture_does_not_run(folder: Path) -> None:
    canary = folder / "ran"
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w').close()\n")
    names = ("AutoConfig", "AutoModel", "AutoModelForMaskedLM")
    edit(folder / "config.json", auto_map=dict.fromkeys(names, "evil.Evil"))
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]})
    load_tokenizer(resolved(folder))
    load_model(resolved(folder), "masked-lm", CPU)
    assert not canary.exists()


@pytest.mark.parametrize("kernels", ["someone/kernels", {"": "someone/kernels"}])
def test_kernels_from_the_hub_are_refused(folder: Path, kernels: object) -> None:
    edit(folder / "config.json", attn_implementation=kernels)
    with pytest.raises(ModelError, match=r"asks for code from the hub \(attn_implementation: someone/kernels in"):
        load_model(resolved(folder), "masked-lm", CPU)


def test_a_configuration_that_leads_to_another_is_refused(folder: Path) -> None:
    hidden = json.loads((folder / "config.json").read_text()) | {"attn_implementation": "someone/kernels"}
    (folder / "config.4.0.0.json").write_text(json.dumps(hidden))
    edit(folder / "config.json", configuration_files=["config.4.0.0.json"])
    with pytest.raises(ModelError, match=r"its config\.json leads to other files \(configuration_files\), which"):
        load_config(resolved(folder))


@pytest.mark.parametrize(
    ("key", "value"), [("fast_tokenizer_files", ["other.json"]), ("vocab", "other.json"), ("merges", "other.txt")]
)
def test_a_tokenizer_that_leads_to_another_is_refused(folder: Path, key: str, value: object) -> None:
    edit(folder / "tokenizer_config.json", **{key: value})
    with pytest.raises(ModelError, match=rf"its tokenizer_config\.json leads to other files \({key}\)"):
        load_tokenizer(resolved(folder))


def test_a_chat_template_that_takes_the_place_of_the_usual_one_is_refused(folder: Path) -> None:
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    load_tokenizer(resolved(folder))
    (folder / "additional_chat_templates" / "default.jinja").write_text("another")
    with pytest.raises(ModelError, match=r"default\.jinja would be read in place of its chat template"):
        load_tokenizer(resolved(folder))


def test_weights_are_those_of_the_files_that_are_hashed(folder: Path) -> None:
    weights, config = folder / "model.safetensors", json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", transformers_weights="model.safetensors")
    load_model(resolved(folder), "masked-lm", CPU)
    for key in ("transformers_weights", "text_config"):
        shutil.copy(weights, folder / "other.safetensors")
        other = "other.safetensors" if key == "transformers_weights" else {"transformers_weights": "other.safetensors"}
        (folder / "config.json").write_text(json.dumps(config | {key: other}))
        with pytest.raises(ModelError, match=r"leads to other files \(transformers_weights\), which are not read"):
            load_model(resolved(folder), "masked-lm", CPU)
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(weights, folder / "shard-00000-model-00001-of-00001.safetensors")
    with pytest.raises(ModelError, match=r"lies a checkpoint of a distributed training \(shard-00000-model-00001-of"):
        load_model(resolved(folder), "masked-lm", CPU)


def test_an_adapter_beside_the_weights_is_not_used_and_said(folder: Path) -> None:
    before = load_model(resolved(folder), "masked-lm", CPU)
    assert before.notices == ()
    lora = {"peft_type": "LORA", "r": 1, "lora_alpha": 8, "target_modules": ["query"]}
    (folder / "adapter_config.json").write_text(json.dumps(lora))
    name = "base_model.model.roberta.encoder.layer.0.attention.self.query.lora_{}.weight"
    values = {name.format("A"): torch.ones(1, 64), name.format("B"): torch.ones(64, 1)}
    save_file(values, folder / "adapter_model.safetensors")
    loaded = load_model(resolved(folder), "masked-lm", CPU)
    assert loaded.notices[0].startswith("beside the weights of tiny lies an adapter (adapter_config.json), which is")
    ids = torch.tensor([[0, 5, 6, 2]])
    assert torch.equal(loaded.model(ids).logits, before.model(ids).logits)


def test_truncated_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"model tiny: its weights in .* cannot be loaded"):
        load_model(resolved(folder), "masked-lm", CPU)


def test_weights_without_memory_are_not_said_to_be_broken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise RuntimeError("unable to mmap 498813948 bytes from file <model.safetensors>: Cannot allocate memory (12)")

    monkeypatch.setattr("safetensors.safe_open", refused)
    with pytest.raises(ModelError, match=r"memory ran out for its weights in .* \(ulimit -v, a container's limit\)"):
        load_model(resolved(folder), "masked-lm", CPU)


def test_missing_and_broken_configuration(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config.json cannot be read as JSON"):
        load_config(resolved(folder))
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config.json in"):
        load_config(resolved(folder))


@pytest.mark.parametrize(
    ("model_type", "said"), [(None, "missing"), ("robrta", "'robrta'"), (["bert"], r"'\['bert'\]'")]
)
def test_an_unknown_architecture(folder: Path, model_type: object, said: str) -> None:
    edit(folder / "config.json", model_type=model_type)
    with pytest.raises(ModelError, match=f"the model_type in .* is {said}"):
        load_config(resolved(folder))


def test_missing_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()
    with pytest.raises(ModelError, match="model tiny: no tokenizer"):
        load_tokenizer(resolved(folder))
    (folder / "preprocessor_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tiny takes images or sound .*no tokenizer .*; name a model of texts"):
        load_tokenizer(resolved(folder))


@pytest.mark.parametrize("name", ["spm.model", "spiece.model", "sentencepiece.model"])
def test_a_vocabulary_of_sentencepiece_alone(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """microsoft/deberta-v3-base is published so."""
    hashed = tokenizer_hash(folder)
    (folder / name).write_bytes(b"pieces")
    assert tokenizer_hash(folder) != hashed
    load_tokenizer(resolved(folder))  # by its tokenizer.json
    for path in folder.glob("*token*"):
        path.unlink()
    for present in ("sentencepiece", "protobuf"):
        monkeypatch.setattr(f"transformers.utils.is_{present}_available", lambda: False)
        said = rf"model tiny: its tokenizer is {name} alone, which needs the packages sentencepiece and protobuf"
        with pytest.raises(ModelError, match=said):
            load_tokenizer(resolved(folder))


def test_a_tokenizer_of_another_model(tiny: Tiny, folder: Path) -> None:
    tokenizer = load_tokenizer(resolved(folder))
    loaded = load_model(resolved(folder), "encoder", CPU)
    check_vocabulary(resolved(folder), tokenizer, loaded.model)
    tokenizer.top_id += 1
    with pytest.raises(ModelError, match="they do not belong together"):
        check_vocabulary(resolved(folder), tokenizer, loaded.model)


def test_missing_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights"):
        load_model(resolved(folder), "masked-lm", CPU)


def test_an_architecture_for_another_purpose(tiny: Tiny) -> None:
    with pytest.raises(ModelError, match="llama model and cannot serve as a masked language model"):
        load_model(tiny("llama_chat"), "masked-lm", CPU)
    with pytest.raises(ModelError, match="cannot serve as a sequence-to-sequence model"):
        load_model(tiny("bert"), "seq2seq", CPU)
    with pytest.raises(ModelError, match=r"trained to fill masks \(RobertaForMaskedLM\)"):
        load_model(tiny("roberta"), "causal", CPU)


def without(folder: Path, dropped: Callable[[str], bool]) -> ResolvedModel:
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not dropped(name)}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    return resolved(folder)


def test_a_head_is_never_random(folder: Path) -> None:
    model = without(folder, lambda name: name.startswith("lm_head"))
    with pytest.raises(ModelError, match="has no trained language-model head"):
        load_model(model, "masked-lm", CPU)
    load_model(model, "encoder", CPU)  # an embedding needs no head


def test_layers_are_never_random(folder: Path) -> None:
    model = without(folder, lambda name: ".layer.1." in name)
    for purpose in ("masked-lm", "encoder"):
        with pytest.raises(ModelError, match="16 weights are missing from its checkpoint"):
            load_model(model, purpose, CPU)  # type: ignore[arg-type]


def test_more_layers_than_the_configuration_names_are_said(folder: Path) -> None:
    assert load_model(resolved(folder), "masked-lm", CPU).notices == ()
    assert load_model(resolved(folder), "encoder", CPU).notices == ()  # a head that is not used is no layer
    edit(folder / "config.json", num_hidden_layers=2)
    (notice,) = load_model(resolved(folder), "masked-lm", CPU).notices
    assert "fewer layers than its weights hold (roberta.encoder.layer.2." in notice


def test_a_configuration_without_end(folder: Path) -> None:
    edit(folder / "config.json", num_hidden_layers=10**9)
    with pytest.raises(ModelError, match=r"asks for 1,000,000,000 layers \(num_hidden_layers\)"):
        load_config(resolved(folder))
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(ModelError, match="cannot be read as JSON"):
        load_config(resolved(folder))


@pytest.mark.parametrize(
    ("key", "count", "what"),
    [
        ("num_labels", 10**9, "labels"),
        ("num_hidden_layers", 5_000, "layers"),
        *((key, 10**9, "parts") for key in ("num_hidden_groups", "inner_group_num", "num_local_experts")),
        ("block_sizes", [4, 10**9], "parts"),
    ],
)
def test_counts_that_take_time_and_memory_before_a_weight_is_read(
    key: str, count: object, what: str, folder: Path
) -> None:
    edit(folder / "config.json", **{key: count})
    with pytest.raises(ModelError, match=rf"its config\.json asks for [\d,]+ {what} \({key}\)"):
        load_config(resolved(folder))


@pytest.mark.parametrize("key", ["intermediate_size", "max_position_embeddings", "vocab_size"])
def test_a_configuration_that_asks_for_more_than_its_weights_hold(key: str, folder: Path) -> None:
    edit(folder / "config.json", **{key: 10**7})
    size = (folder / "model.safetensors").stat().st_size
    said = rf"do not fit its config\.json, which asks for [\d,]+ numbers; the files of the weights have {size:,} bytes"
    with pytest.raises(ModelError, match=said):
        load_model(resolved(folder), "masked-lm", CPU)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors.index.json"])
def test_files_of_text_without_end(name: str, folder: Path) -> None:
    if name == "model.safetensors.index.json":
        (folder / "model.safetensors").unlink()
    with (folder / name).open("ab") as file:
        file.truncate(1 << 30)  # takes no room on the disk
    with pytest.raises(ModelError, match=rf"model file .*{name} is larger than 256 MiB, which no configuration"):
        resolve(str(folder))


def test_weights_of_another_shape(folder: Path) -> None:
    edit(folder / "config.json", intermediate_size=96)
    said = r"\.layer\.0\.intermediate\.dense\.bias is 128, but the configuration wants 96"
    with pytest.raises(ModelError, match=said):
        load_model(resolved(folder), "masked-lm", CPU)


def test_an_interrupt_is_no_fault_of_the_model(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise Interrupted("stop")

    monkeypatch.setattr(AutoConfig, "from_pretrained", interrupted)
    with pytest.raises(Interrupted):
        load_config(tiny("bert"))


def test_two_runs_of_one_process_may_load_at_once(tiny: Tiny) -> None:
    """transformers keeps what it is doing in the process: it would find each other's weights missing."""
    models = [tiny("bert"), tiny("roberta"), tiny("modernbert")]
    before = logging.get_verbosity(), logging.is_progress_bar_enabled(), list(warnings.filters)

    def load(number: int) -> tuple[str, int]:
        loaded = load_model(models[number % 3], "masked-lm", CPU)
        return loaded.config.model_type, load_tokenizer(models[number % 3]).top_id

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(load, range(12)))
    assert [kind for kind, _ in found] == ["bert", "roberta", "modernbert"] * 4
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled(), list(warnings.filters)) == before


LONGROPE = {"rope_type": "longrope", "original_max_position_embeddings": 5}


@pytest.mark.parametrize(
    "wrong",
    [
        *({"architectures": names} for names in (5, "RobertaModel", [None], [5])),
        {"problem_type": ["regression"]},
        *({"text_config": part} for part in ({}, 5)),
        {"attention_type": "block_sparse"},  # without the numbers of BigBird's blocks
        {"rope_parameters": {"a": LONGROPE, "b": LONGROPE | {"original_max_position_embeddings": "x"}}},
        *({"model_type": "longformer", "attention_window": window} for window in (0, [], [0, -2], "wide")),
    ],
)
def test_values_of_a_configuration_that_transformers_takes_as_they_are(wrong: dict[str, object], folder: Path) -> None:
    edit(folder / "config.json", **wrong)
    with pytest.raises(ModelError, match=r"its config\.json in .* cannot be loaded \("):
        load_config(resolved(folder))
