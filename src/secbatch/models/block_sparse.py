"""BigBird's attention in blocks, for each text that is long enough for it."""

from typing import Any

from secbatch.models.configuration import changes_beyond


def keep_block_sparse(model: Any) -> None:
    """Has a model look at blocks of keys in every long text, as a new one does.

    At its first short text transformers changes BigBird (arXiv:2007.14062) for one that looks at all keys, for good.
    """
    beyond = changes_beyond(model.config)

    def look_at_blocks(module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        ids = named.get("input_ids", inputs[0] if inputs else None)
        if ids is not None and ids.shape[1] > beyond:
            module.set_attention_type("block_sparse")

    for module in model.modules():
        # of the modules that keep it, the one that is given tokens
        if getattr(module, "attention_type", None) == "block_sparse" and hasattr(module, "get_input_embeddings"):
            module.register_forward_pre_hook(look_at_blocks, with_kwargs=True)
