"""The job's data: read, split and checked before anything is learned."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from secbatch.errors import InputError, shown
from secbatch.finetune_job import FinetuneJob
from secbatch.labelled.checks import (
    check_apart,
    check_enough,
    check_known,
    check_one_label,
    contradictions,
    label_places,
)
from secbatch.labelled.examples import DataFile, Labelled
from secbatch.labelled.files import LabelledFiles
from secbatch.labelled.readers import (
    is_multi_label,
    read_classification,
    read_pairs,
    read_questions,
    read_texts,
    read_tokens,
)
from secbatch.labelled.splitting import split


@dataclass(frozen=True)
class Side:
    """One side of the split."""

    examples: tuple[Any, ...]
    files: tuple[DataFile, ...]
    malformed: int  # rows left out

    @property
    def groups(self) -> int:
        return len({example.group for example in self.examples if example.group is not None})


@dataclass(frozen=True)
class Dataset:
    train: Side
    dev: Side
    test: Side | None
    labels: tuple[str, ...]  # of classify and ner, in the model's order
    multi: bool  # classify: a text may have several
    notices: tuple[str, ...]

    @property
    def sides(self) -> dict[str, Side]:
        """Those that there are, by name."""
        return {"train": self.train, "dev": self.dev} | ({"test": self.test} if self.test else {})


def load_dataset(job: FinetuneJob) -> Dataset:
    """Raises InputError, one sentence with its place, for data that cannot be learned from as the job says."""
    data = job.data
    multi = False
    if job.objective == "classify":
        multi = is_multi_label(_files(job, data.train), str(data.label), data.label_delimiter)
    train = _read(job, data.train)
    sides: dict[str, Labelled[Any]] = {"train": train}
    for name, path in (("dev", data.dev), ("test", data.test)):
        if path is not None:
            sides[name] = _read(job, path)
    notices = [notice for side in sides.values() for notice in side.notices]
    examples = {name: side.examples for name, side in sides.items()}
    labels = _labels(job, train.examples)
    if job.objective == "qa" and not any(example.answers for example in train.examples):
        raise InputError(f"{data.train}: no question has an answer, so there is nothing to learn")
    if job.objective == "classify" and not multi:
        notices += contradictions(train.examples, data.train)
    if data.dev is None:
        examples["train"], examples["dev"] = split(train.examples, data.dev_fraction, job.hyperparameters.seed)
        sides["dev"] = train
    for name in ("dev", "test") if labels else ():
        if name in examples:
            check_known(label_places(examples[name]), labels, "the training files")
            if job.objective == "classify" and not multi:
                check_one_label(examples[name], data.train)
    pairs = [("train", "dev"), *((one, "test") for one in ("train", "dev") if "test" in examples)]
    for first, second in pairs:
        notices += check_apart(examples[first], examples[second], (first, second))
    if labels:
        absent = [label for label in labels if label not in label_places(examples["dev"])]
        if absent:
            some = ", ".join(map(shown, absent[:5])) + (", …" if len(absent) > 5 else "")
            notices.append(f"dev has no example of {len(absent)} of the {len(labels)} labels ({some})")
    made = {
        name: Side(chosen, sides[name].files, 0 if data.dev is None and name == "dev" else len(sides[name].malformed))
        for name, chosen in examples.items()
    }
    unique = tuple(dict.fromkeys(notices))
    return Dataset(made["train"], made["dev"], made.get("test"), labels, multi, unique)


def _labels(job: FinetuneJob, trained: Sequence[Any]) -> tuple[str, ...]:
    """The labels in the model's order: the job's, or those of the training files in sorted order."""
    if job.objective not in ("classify", "ner"):
        return ()
    places = label_places(trained)
    if not places:
        raise InputError(f"{job.data.train}: no example has a label, so there is nothing to learn")
    check_enough(places, job.data.min_examples)
    labels = job.data.labels or _ordered(places)
    if len(set(labels)) < len(labels):
        raise InputError("data.labels names a label twice; remove one")
    if job.data.labels:
        check_known(places, labels, "data.labels")
        unseen = [label for label in labels if label not in places]
        if unseen:
            raise InputError(f"data.labels has '{shown(unseen[0])}', of which {job.data.train} has no example")
    if job.objective == "classify" and len(labels) < 2 and all(example.labels for example in trained):
        raise InputError(
            f"{job.data.train}: every example has the label '{shown(labels[0])}'; two labels at least are needed"
        )
    return labels


def _ordered(labels: Collection[str]) -> tuple[str, ...]:
    """In alphabetical order; numbers by their size, so that label 2 is the model's number 2."""
    numbers = all(label.isascii() and label.isdigit() for label in labels)
    return tuple(sorted(labels, key=lambda label: (int(label) if numbers else 0, label)))


def _files(job: FinetuneJob, path: str) -> LabelledFiles:
    data = job.data
    return LabelledFiles(path, data.format, data.delimiter, data.encoding, data.malformed)


def _read(job: FinetuneJob, path: str) -> Labelled[Any]:
    data, files = job.data, _files(job, path)
    if job.objective == "classify":
        return read_classification(files, str(data.text), str(data.label), data.label_delimiter, data.group)
    if job.objective == "ner":
        return read_tokens(files, data.text or "text", data.spans or "spans", data.group)
    if job.objective == "masked-lm":
        return read_texts(files, str(data.text), data.group)
    if job.objective == "qa":
        start = data.answer_start or "answer_start"
        names = (data.question or "question", data.context or "context", data.answer or "answer")
        return read_questions(files, *names, start, data.group)
    return read_pairs(files, str(data.source), str(data.target), data.group)
