"""Definitions taken from the corpora: MITRE ATT&CK and CAPEC descriptions, Sigma rules, names of the rest.

A model of ten million parameters can hold a few thousand short answers, so only the best documented objects
are kept (how often the corpora speak of them), each with the first sentence of its description.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from secbatch.training.cleaning import clean_description, split_sentences
from secbatch.training.dialogue_entries import Entry

if TYPE_CHECKING:
    import pandas as pd

# Entries kept of each kind, as many as an hour of one core can teach; none of CAPEC.
LIMITS = {"technique": 90, "software": 45, "group": 30, "capec": 0}
DEFINITIONS = "attack_descriptions.parquet"
WORDS = (5, 30)  # shortest and longest answer, in words
# Files that may be there: name in the corpus folder, what it gives, and its licence and notice.
FILES = {
    DEFINITIONS: (
        "definitions, mitigations and examples (MITRE ATT&CK); unknown names (CAPEC)",
        "© 2025 The MITRE Corporation. This work is reproduced and distributed with the permission of "
        "The MITRE Corporation.",
    ),
    "sigma_rules.csv": ("how ATT&CK techniques are detected (SigmaHQ/sigma)", "Detection Rule License 1.1"),
    "tram_technique_sentences.csv": ("which techniques are frequent (TRAM)", "Apache-2.0"),
    "known_exploited_vulnerabilities.csv": (
        "names that the model must say it does not know (CISA KEV)",
        "CC0-1.0",
    ),
    "csaf_advisories.parquet": (
        "names that the model must say it does not know (cisagov/CSAF)",
        "work of the US Government, public domain in the USA",
    ),
}

_SUBJECT = re.compile(r"^\[([^\]]+)\]\(https?://attack\.mitre\.org/(groups|software)/(?:[GS]\d+)/?\)")
_TECHNIQUE = re.compile(r"\bt\d{4}(?:\.\d{3})?\b", re.IGNORECASE)
_COA_PHASE = re.compile(r"^(?:Implementation|Design|Configuration|Generic|Operation|Usage)s?\s*:\s*", re.IGNORECASE)
_ASIDE = re.compile(r"\s*\((?:e\.g\.|i\.e\.|ex:|see|such as|for example)[^()]*\)|\s*\(\s*\)", re.IGNORECASE)
_BROKEN = re.compile(r"https?://|[<>{}|\\]|::|\bCVE-|:$|\bthis (?:object|technique has been|page)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Knowledge:
    """Entries to learn, names that must be answered with "I do not know", and all text for the vocabulary."""

    entries: list[Entry]
    unknown_names: list[str]
    vocabulary_texts: list[str]


def answer_sentence(text: str, words: tuple[int, int] = WORDS) -> str | None:
    """The first sentence of a description, cleaned, or None where it is too short, too long or broken."""
    for sentence in split_sentences(clean_description(text))[:1]:
        sentence = _COA_PHASE.sub("", _ASIDE.sub("", sentence)).strip()
        sentence = re.sub(r"\s+([.,;])", r"\1", re.sub(r"\s{2,}", " ", sentence))
        if _BROKEN.search(sentence) or not words[0] <= len(sentence.split()) <= words[1]:
            return None
        sentence = sentence[0].upper() + sentence[1:]
        return sentence if sentence.endswith((".", "!", "?")) else sentence.rstrip(",;") + "."
    return None


def read_knowledge(corpus: Path) -> Knowledge:
    """Everything that the corpus folder gives.

    Only ``attack_descriptions.parquet`` must be there; raises ``FileNotFoundError`` without it.
    """
    import pandas as pd

    if not (corpus / DEFINITIONS).is_file():
        raise FileNotFoundError(f"{corpus} holds no {DEFINITIONS}, of which the chat model's answers are made")
    attack = pd.read_parquet(corpus / DEFINITIONS)
    texts = [clean_description(text) for text in attack["text"]]
    attack = attack[attack["revoked_or_deprecated"].astype(str) != "True"]
    sigma = _read_csv(corpus / "sigma_rules.csv", ["title", "description", "tags"])
    frequent = _technique_frequency(sigma, _read_csv(corpus / "tram_technique_sentences.csv", ["label"]))
    old = pd.read_parquet(corpus / DEFINITIONS, columns=["stix_type", "name", "text"])
    techniques = _techniques(attack, old, sigma, frequent)
    capec, capec_rest = _attack_patterns(attack)
    actors, actor_rest = _actors(attack)
    unknown = [*capec_rest, *actor_rest, *_product_names(corpus)]
    texts += [*sigma["title"], *sigma["description"]]
    return Knowledge([*techniques, *actors, *capec], sorted(set(unknown)), texts)


def _read_csv(path: Path, columns: list[str]) -> pd.DataFrame:
    import pandas as pd

    if not path.exists():
        return pd.DataFrame({column: pd.Series(dtype=str) for column in columns})
    return pd.read_csv(path, dtype=str, keep_default_na=False)[columns]


def _technique_frequency(sigma: pd.DataFrame, tram: pd.DataFrame) -> Counter[str]:
    """How often Sigma rules and labelled report sentences speak of each technique id (upper case)."""
    labels = [label for tags in [*sigma["tags"], *tram["label"]] for label in _TECHNIQUE.findall(tags)]
    return Counter(label.upper() for label in labels)


def _techniques(attack: pd.DataFrame, old: pd.DataFrame, sigma: pd.DataFrame, frequent: Counter[str]) -> list[Entry]:
    """ATT&CK techniques, frequent ones first, with mitigation and detection where there is one."""
    mitigations = {
        name.removesuffix(" Mitigation"): text
        for kind, name, text in old.itertuples(index=False)
        if kind == "course-of-action" and name.endswith(" Mitigation")
    }
    detections: dict[str, list[str]] = {}
    for description, tags in zip(sigma["description"], sigma["tags"], strict=True):
        sentence = answer_sentence(description, (6, 26))
        if sentence and sentence.startswith("Detects ") and sentence.isascii():
            for label in _TECHNIQUE.findall(tags):
                detections.setdefault(label.upper(), []).append(sentence)
    rows = attack[(attack["stix_type"] == "attack-pattern") & attack["external_id"].str.match(r"T\d{4}")]
    domains = {"enterprise-attack": 0, "mobile-attack": 2, "ics-attack": 1}
    ranked = sorted(
        rows.itertuples(index=False),
        key=lambda row: (
            domains.get(str(row.domain), 3),
            -frequent[str(row.external_id)],
            "." in str(row.external_id),
        ),
    )
    entries: dict[str, Entry] = {}
    for row in ranked:
        definition = answer_sentence(str(row.text))
        name = str(row.name)
        if definition is None or name in entries or len(entries) >= LIMITS["technique"]:
            continue
        answers = {"what": definition}
        if name in mitigations and (mitigation := answer_sentence(mitigations[name])):
            answers["prevent"] = mitigation
        if detection := _detection_of(name, detections.get(str(row.external_id), [])):
            answers["detect"] = "A Sigma rule " + detection[0].lower() + detection[1:]
        entries[name] = Entry(name, (), "technique", answers, "ATT&CK", 1.0)
    return list(entries.values())


def _detection_of(name: str, sentences: list[str]) -> str | None:
    """The shortest sentence that shares a word of five letters with the technique's name: the others
    are often about a side issue of the rule's product."""
    stems = {word[:5] for word in re.findall(r"[a-z]{5,}", name.lower())}
    fitting = [s for s in sentences if stems & {word[:5] for word in re.findall(r"[a-z]{5,}", s.lower())}]
    return min(fitting, key=len, default=None)


def _attack_patterns(attack: pd.DataFrame) -> tuple[list[Entry], list[str]]:
    """CAPEC patterns that have a mitigation, and the names of those left out."""
    capec = attack[attack["domain"] == "capec/2.0"]
    mitigations: dict[str, list[str]] = {}
    for row in capec[capec["stix_type"] == "course-of-action"].itertuples(index=False):
        number = str(row.name).split("-")[1]
        if sentence := answer_sentence(str(row.text), (5, 26)):
            mitigations.setdefault(number, []).append(sentence)
    patterns = capec[capec["stix_type"] == "attack-pattern"]
    entries: list[Entry] = []
    rest: list[str] = []
    ranked = sorted(
        patterns.itertuples(index=False),
        key=lambda row: -len(mitigations.get(str(row.external_id).removeprefix("CAPEC-"), ())),
    )
    for row in ranked:
        definition = answer_sentence(str(row.text))
        prevent = mitigations.get(str(row.external_id).removeprefix("CAPEC-"))
        if definition and prevent and len(entries) < LIMITS["capec"]:
            answers = {"what": definition, "prevent": prevent[0]}
            entries.append(Entry(str(row.name), (), "technique", answers, "CAPEC", 1.0))
        else:
            rest.append(str(row.name))
    return entries, rest


def _actors(attack: pd.DataFrame) -> tuple[list[Entry], list[str]]:
    """Groups and software, those with most reported behaviour first, and the names of those left out."""
    behaviour: dict[tuple[str, str], list[str]] = {}
    for text in attack.loc[attack["stix_type"] == "relationship", "text"]:
        if match := _SUBJECT.match(text):
            behaviour.setdefault((match[1], match[2]), []).append(text)
    rows = attack[attack["stix_type"].isin(["malware", "tool", "intrusion-set"])]
    entries: list[Entry] = []
    rest: list[str] = []
    counts: Counter[str] = Counter()
    places = {
        name: "groups" if kind == "intrusion-set" else "software"
        for name, kind in zip(rows["name"], rows["stix_type"], strict=True)
    }
    ranked = sorted(
        rows.itertuples(index=False),
        key=lambda row: -len(behaviour.get((str(row.name), places[str(row.name)]), ())),
    )
    for row in ranked:
        name, place = str(row.name), places[str(row.name)]
        kind = "group" if place == "groups" else "software"
        definition = answer_sentence(str(row.text))
        if definition is None or counts[kind] >= LIMITS[kind]:
            rest.append(name)
            continue
        counts[kind] += 1
        answers = {"what": definition}
        examples = (answer_sentence(text, (6, 22)) for text in behaviour.get((name, place), ()))
        if kind == "group" and (example := next((e for e in examples if e and e.isascii()), None)):
            answers["example"] = example
        entries.append(Entry(name, (), kind, answers, "ATT&CK", 1.0))
    return entries, rest


def _product_names(corpus: Path) -> Iterable[str]:
    """Names of products in the advisories, which the model does not know."""
    import pandas as pd

    kev = _read_csv(corpus / "known_exploited_vulnerabilities.csv", ["vendorProject", "product"])
    yield from sorted({f"{vendor} {product}" for vendor, product in kev.itertuples(index=False)})
    path = corpus / "csaf_advisories.parquet"
    if path.exists():
        titles = sorted(set(pd.read_parquet(path, columns=["title"])["title"]))
        yield from (re.sub(r"\s*\(.*?\)", "", title)[:60] for title in titles if title.isascii())
