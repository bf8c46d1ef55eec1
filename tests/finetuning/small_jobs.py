"""Small trainings: a few rows, a tiny base, a few steps."""

import json
from pathlib import Path
from typing import Any

import pytest

from secbatch.finetune_job import FinetuneJob
from secbatch.jobfile import validate_as

MALWARE = ["Emotet", "TrickBot", "Ryuk", "Conti", "Qakbot", "Dridex"]
TOOLS = ["nmap", "curl", "netcat", "wget", "tcpdump", "ping"]


def job(
    objective: str, base: Path | dict[str, str], data: dict[str, Any], output: Path, **hyperparameters: Any
) -> FinetuneJob:
    settings = {"epochs": 2, "batch_tokens": 128, "learning_rate": 1e-3, "max_length": 40, **hyperparameters}
    values = {
        "name": "small",
        "objective": objective,
        "model": base if isinstance(base, dict) else str(base),
        "data": data,
        "hyperparameters": settings,
        "output": str(output),
        "device": "cpu",
        "precision": "float32",
    }
    return validate_as(FinetuneJob, values, "test")


def leave_out_curve(patch: pytest.MonkeyPatch) -> None:
    """A file takes the place of the drawing."""

    def draw(record: dict[str, Any], path: Path) -> None:
        path.write_bytes(b"")

    patch.setattr("secbatch.finetuning.curve.draw_curve", draw)


def classification_file(path: Path, multi: bool = False) -> dict[str, Any]:
    lines = ["text,label,doc"]
    for number in range(48):
        malware = number % 2 == 0
        name = (MALWARE if malware else TOOLS)[number // 2 % 6]
        label = ("malware;bad" if multi else "malware") if malware else ("" if multi and number % 3 else "tool")
        lines.append(f"{name} was seen {number} times on the host,{label},doc{number // 4}")
    path.write_text("\n".join(lines) + "\n")
    data: dict[str, Any] = {"train": str(path), "text": "text", "label": "label", "group": "doc", "dev_fraction": 0.25}
    return {**data, "label_delimiter": ";"} if multi else data


def conll_file(path: Path, sentences: int = 40) -> str:
    text = ""
    for number in range(sentences):
        name, tool = MALWARE[number % 6], TOOLS[number % 5]
        text += f"{name}\tB-Malware\n{number}.exe\tI-Malware\nruns\tO\n{tool}\tB-Tool\n.\tO\n\n"
    path.write_text(text)
    return str(path)


def questions_file(path: Path) -> dict[str, Any]:
    rows = []
    for number in range(36):
        name, tool = MALWARE[number % 6], TOOLS[number % 5]
        context = f"{name} used {tool} on the host. " + "Nothing else was seen there. " * (number % 3)
        rows.append({"question": "Who used it?", "context": context, "answer": name, "answer_start": 0})
        rows.append({"question": "Why was it?", "context": context, "answer": None, "answer_start": None})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"train": str(path)}


def texts_file(path: Path) -> dict[str, Any]:
    rows = [f"{MALWARE[n % 6]} drops {TOOLS[n % 5]} and beacons to host {n}." for n in range(60)]
    path.write_text("text\n" + "\n".join(rows) + "\n")
    return {"train": str(path), "text": "text"}


def pairs_file(path: Path) -> dict[str, Any]:
    rows = [f"{MALWARE[n % 6]} was seen with {TOOLS[n % 5]},{TOOLS[n % 5]}" for n in range(30)]
    path.write_text("long,short\n" + "\n".join(rows) + "\n")
    return {"train": str(path), "source": "Sum up: {long}", "target": "short"}
