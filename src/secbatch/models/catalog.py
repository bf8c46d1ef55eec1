"""Models by short name: where each is, under which licence, and what it is good for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CatalogEntry:
    """A model that jobs can name without knowing its hub id."""

    name: str
    hub_id: str | None  # owner/name on the hub, None for a model that ships with the package
    licence: str
    good_for: str
    revision: str = "main"  # branch, tag or commit; the commit it resolves to is recorded with every run


_ENTRIES = (
    CatalogEntry(
        name="securebert",
        hub_id="ehsanaghaei/SecureBERT",
        licence="bigscience-openrail-m",
        good_for="Masked words and embeddings of security text (RoBERTa-base trained further on it)",
    ),
    CatalogEntry(
        name="securebert-plus",
        hub_id="ehsanaghaei/SecureBERT_Plus",
        licence="see model card",
        good_for="As securebert, trained on more text",
    ),
    CatalogEntry(
        name="securebert2",
        hub_id="cisco-ai/SecureBERT2.0-base",
        licence="Apache-2.0",
        good_for="Long security texts and code, up to 8,192 tokens (ModernBERT)",
    ),
    CatalogEntry(
        name="roberta-base",
        hub_id="FacebookAI/roberta-base",
        licence="MIT",
        good_for="General English; what securebert is compared with",
    ),
    CatalogEntry(
        name="blenderbot",
        hub_id="facebook/blenderbot-400M-distill",
        licence="Apache-2.0",
        good_for="Short conversational answers, 128 tokens of history",
    ),
    CatalogEntry(
        name="qwen",
        hub_id="Qwen/Qwen2.5-0.5B-Instruct",
        licence="Apache-2.0",
        good_for="Fuller answers to instructions, with a system message and long history",
    ),
    CatalogEntry(
        name="builtin/mlm",
        hub_id=None,
        licence="Apache-2.0",
        good_for="Trying things out with no network: a small stand-in, not SecureBERT",
    ),
    CatalogEntry(
        name="builtin/chat",
        hub_id=None,
        licence="Apache-2.0",
        good_for="Trying things out with no network: a small stand-in, not Blenderbot",
    ),
)

CATALOG: dict[str, CatalogEntry] = {entry.name: entry for entry in _ENTRIES}
