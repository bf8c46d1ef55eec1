"""Low-rank adapters by peft: trained beside the frozen weights, merged into them at the end."""

from typing import Any

from secbatch.finetune_job import Lora
from secbatch.models.transformers_calls import quiet


class Adapters:
    """A model whose linear layers have adapters; its head is trained as a whole."""

    def __init__(self, model: Any, wanted: Lora) -> None:
        """Changes `model` in place."""
        import torch
        from peft import LoraConfig, get_peft_model

        base = model.base_model
        # Some models (T5, encoder-decoder pairs) have no base apart from themselves: all but their output is it.
        prefix = "" if base is model else f"{model.base_model_prefix}."
        output = model.get_output_embeddings()
        inside = [
            f"{prefix}{name}"
            for name, module in base.named_modules()
            if isinstance(module, torch.nn.Linear) and module is not output and "pooler" not in name.split(".")
        ]
        head = [name for name, _ in model.named_parameters() if not name.startswith(prefix) or ".pooler." in name]
        config = LoraConfig(r=wanted.rank, lora_alpha=wanted.alpha, lora_dropout=wanted.dropout, target_modules=inside)
        with quiet():
            self._peft = get_peft_model(model, config)
        tied = {id(parameter) for name, parameter in base.named_parameters() if "pooler" not in name.split(".")}
        for name, parameter in model.named_parameters():
            if name in head and id(parameter) not in tied:
                parameter.requires_grad_(True)

    def merge(self) -> Any:
        """The model with the adapters in its weights, plain again."""
        return self._peft.merge_and_unload()
