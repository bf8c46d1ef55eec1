"""How a token classifier's labels spell spans: BIO, BIOES (BMES), BILOU, or bare types (IO).

Ramshaw and Marcus 1995 (arXiv:cmp-lg/9505040) for BIO, Ratinov and Roth 2009 (CoNLL) for BILOU.
"""

import re
from dataclasses import dataclass

import numpy as np

from secbatch.errors import ModelError

OUTSIDE = "O"
_PREFIXED = re.compile(r"([BIESLUM])([-_])(.+)", re.DOTALL)
_SCHEMES = {"BIO": frozenset("BI"), "BIOES": frozenset("BIESM"), "BILOU": frozenset("BILU")}
_UNNAMED = re.compile(r"LABEL_\d+")


@dataclass(frozen=True)
class LabelScheme:
    """What each of L labels says of its token."""

    name: str  # BIO, BIOES, BILOU or IO
    types: tuple[str, ...]
    type_of: np.ndarray  # [L] int32: place in `types`, -1 outside of all spans
    begins: np.ndarray  # [L] bool: a span begins here, whatever came before
    ends: np.ndarray  # [L] bool: the next token is of another span, whatever it says

    @classmethod
    def of(cls, labels: tuple[str, ...], model: str) -> "LabelScheme":
        """Raises ModelError when the labels' prefixes belong to different schemes, or all are outside."""
        split = [_PREFIXED.fullmatch(label) for label in labels]
        prefixes = {found[1] for found in split if found}
        plain = [label for label, found in zip(labels, split, strict=True) if not found and label != OUTSIDE]
        underscored = any(found and found[2] == "_" for found in split)
        # A type such as E-mail, or a_b, is no prefix of a scheme: one has B or I, and an underscore stands everywhere.
        if not prefixes & {"B", "I"} or (underscored and (plain or "B" not in prefixes or "I" not in prefixes)):
            name, split = "IO", [None] * len(labels)
        else:
            name = next((name for name, known in _SCHEMES.items() if prefixes <= known), "")
            if not name:
                raise ModelError(
                    f"model {model}: its labels mix the prefixes {', '.join(sorted(prefixes))}, which belong to no one"
                    " scheme (BIO, BIOES or BILOU); mend id2label in its config.json"
                )
        kinds = [found[3] if found else label for label, found in zip(labels, split, strict=True)]
        outside = [found is None and label == OUTSIDE for label, found in zip(labels, split, strict=True)]
        types = tuple(dict.fromkeys(kind for kind, out in zip(kinds, outside, strict=True) if not out))
        if not types:
            raise ModelError(f"model {model}: none of its labels names a type of span (id2label in its config.json)")
        place = {kind: number for number, kind in enumerate(types)}
        first = [found[1] if found else "" for found in split]
        return cls(
            name,
            types,
            np.array([-1 if out else place[kind] for kind, out in zip(kinds, outside, strict=True)], np.int32),
            np.array([letter in ("B", "S", "U") for letter in first]),
            np.array([letter in ("E", "S", "L", "U") for letter in first]),
        )

    def remarks(self, model: str) -> tuple[str, ...]:
        """What a user should know about the labels, one sentence each."""
        said = []
        if (self.type_of >= 0).all():
            said.append(f"model {model} has no label '{OUTSIDE}', so every token of a text is part of a span")
        if all(_UNNAMED.fullmatch(kind) for kind in self.types):
            said.append(f"the labels of model {model} have no names ({self.types[0]}); name them in id2label")
        return tuple(said)
