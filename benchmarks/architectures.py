"""Embeddings by other architectures against transformers: python benchmarks/architectures.py [--rows N] [--precision P]

Models in the shapes of well-known ones with random weights, the model alone: secbatch's way, and transformers' own
forward over the same tokens, sorted by length and padded, at the best of several batch sizes. In turn, several rounds.
`--tokens` makes texts of about so many tokens out of sentences, of several numbers in turn where it is given more than
once; `--shape` picks shapes by a part of their names. The last columns are the linear layers' share of plain products
beside them, where secbatch packs, and the largest difference of a value between the two.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from encoder_model import model_tokenizer
from encoder_ours import ModelAlone
from gemm import GemmRate
from sentences import distinct_sentences
from transformers import (
    AlbertConfig,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
)

from secbatch.models.device import choose

DEBERTA_V3: dict[str, Any] = {
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}
BATCHES = (1, 4, 8, 16, 32, 64)
MOST_TOKENS = 16_384  # of a padded batch that is tried


def shapes(vocabulary: int) -> dict[str, Any]:
    """Names, and configurations with the sizes of a model of that name; but for the vocabulary, which costs nothing."""
    size: dict[str, Any] = {"vocab_size": vocabulary, "pad_token_id": 0}
    no_others: dict[str, Any] = {f"{name}_token_id": None for name in ("bos", "eos", "cls", "sep")}
    return {
        "BERT-base": BertConfig(**size),
        "RoBERTa-base": RobertaConfig(max_position_embeddings=514, **size | {"pad_token_id": 1}),
        "MiniLM-L6": BertConfig(**size, **_small(384, 6)),
        "MiniLM-L3": BertConfig(**size, **_small(384, 3)),
        "TinyBERT-4L": BertConfig(**size, **_small(312, 4, 1200)),
        "BERT-tiny": BertConfig(**size, **_small(128, 2)),
        "ModernBERT-base": ModernBertConfig(**size, **no_others),
        "DistilBERT": DistilBertConfig(**size),
        "ELECTRA-base": ElectraConfig(
            embedding_size=768, hidden_size=768, num_attention_heads=12, intermediate_size=3072, **size
        ),
        "MPNet-base": MPNetConfig(max_position_embeddings=514, **size),
        "ALBERT, as wide": AlbertConfig(hidden_size=768, num_attention_heads=12, intermediate_size=3072, **size),
        "DeBERTa-v3-base": DebertaV2Config(
            hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, **DEBERTA_V3, **size
        ),
    }


def _small(hidden: int, layers: int, wide: int | None = None) -> dict[str, Any]:
    """Sizes; `wide` is four times `hidden` where nothing else is said. Heads are of 32 numbers, BERT-tiny's of 64."""
    heads = 2 if hidden == 128 else 12
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": wide or 4 * hidden,
    }


def texts_of(tokens: list[int], count: int, tokenizer: Any) -> list[str]:
    """`count` texts of about `tokens` tokens in turn, each of sentences from another one on; or plain sentences."""
    sentences = distinct_sentences(None, max(count, 256))
    if not tokens:
        return sentences[:count]
    lengths = [len(ids) for ids in tokenizer(sentences, add_special_tokens=False)["input_ids"]]
    texts = []
    for number, wanted in zip(range(count), cycle(tokens), strict=False):
        whole = 0
        parts: list[str] = []
        for place in islice(cycle(range(len(sentences))), number * 7, None):
            if parts and whole + lengths[place] > wanted - 2:  # the special tokens
                break
            parts.append(sentences[place])
            whole += lengths[place]
        texts.append(" ".join(parts))
    return texts


def linear_flops(model: Any, tokens: int) -> float:
    """Of the linear layers for `tokens` tokens; of a pooler, which secbatch leaves out, none."""
    modules = [
        module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "pooler" not in name.split(".")
    ]
    return 2.0 * tokens * sum(module.weight.numel() for module in modules)


class Stock:
    """transformers' forward over padded batches of token rows sorted by length, and the mean over real tokens."""

    def __init__(self, folder: Path, rows: list[list[int]], device: str, dtype: torch.dtype) -> None:
        self.model = transformers.AutoModel.from_pretrained(folder, dtype=dtype).to(device).eval()
        self.rows = rows
        self.order = sorted(range(len(rows)), key=lambda row: -len(rows[row]))
        self.device = device

    @torch.inference_mode()
    def vectors(self, batch: int) -> np.ndarray:
        """[n, hidden]"""
        made = np.zeros((len(self.rows), self.model.config.hidden_size), np.float32)
        for start in range(0, len(self.order), batch):
            places = self.order[start : start + batch]
            rows = [torch.tensor(self.rows[place]) for place in places]
            ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.device)
            lengths = torch.tensor([len(row) for row in rows], device=self.device)
            mask = (torch.arange(ids.shape[1], device=self.device) < lengths[:, None]).long()
            states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
            means = (states * mask[..., None]).sum(1, dtype=torch.float32) / lengths[:, None]
            made[places] = means.cpu().numpy()
        return made


def measure(name: str, config: Any, options: argparse.Namespace, folder: Path) -> str:
    tokenizer = model_tokenizer(None)
    sentences = texts_of(options.tokens, options.rows, tokenizer)
    tokenizer.model_max_length = config.max_position_embeddings
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    compute = choose(options.device, options.precision)
    ours = ModelAlone("embed", folder, sentences, compute.device, compute.dtype)
    tokens = ours.sequences
    rows = [tokens[row].tolist() for row in range(len(tokens))]
    stock = Stock(folder, rows, compute.device, compute.torch_dtype)
    clock = time.process_time if options.cpu_time else time.perf_counter

    def timed(work: Callable[[], object]) -> float:
        begin = clock()
        work()
        return clock() - begin

    ours.seconds()
    most = min(MOST_TOKENS // int(tokens.lengths.max()), len(rows))
    tried = {batch: timed(partial(stock.vectors, batch)) for batch in BATCHES if batch <= max(most, 1)}
    best = min(tried, key=lambda batch: tried[batch])
    gemm = GemmRate(compute.device, compute.torch_dtype)
    rounds = [(timed(ours.seconds), gemm.measure(), timed(partial(stock.vectors, best))) for _ in range(options.rounds)]
    spent, rates, others = zip(*rounds, strict=True)
    mine, theirs = (len(sentences) / np.median(seconds) for seconds in (spent, others))
    share = f"{linear_flops(stock.model, len(tokens.ids)) / np.median(np.multiply(spent, rates)):>6.0%}"
    if options.cpu_time or not ours.encoder._states().packed:
        share = ""  # products are timed by the wall clock, and padding is work as well
    difference = float(np.abs(ours.numbers()[1] - stock.vectors(best)).max())
    return (
        f"{name:18}{mine:>10,.2f}/s{theirs:>10,.2f}/s, batches of {best:<4}{mine / theirs:>6.2f} ×"
        f"{share:>8}{difference:>12.1e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, action="append", default=[], help="of a text (repeatable)")
    parser.add_argument("--shape", action="append", default=[], help="a part of a shape's name (repeatable)")
    parser.add_argument("--cpu-time", action="store_true", help="of the process, where other work goes on beside it")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="float32")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    compute = choose(options.device, options.precision)
    print(f"{options.rows} texts; {compute.description}, {compute.dtype}")
    print(f"{'':18}{'secbatch':>12}{'transformers':>14}")
    for name, config in shapes(len(model_tokenizer(None))).items():
        if options.shape and not any(part.lower() in name.lower() for part in options.shape):
            continue
        with tempfile.TemporaryDirectory() as folder:
            print(measure(name, config, options, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
