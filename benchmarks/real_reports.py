"""What the main job costs on whole reports: python benchmarks/real_reports.py [--reports FILE.parquet].

Three runs of `secbatch run`, each a process of its own: (a) every sentence probed with a cloze template and embedded,
(b) one content word of each sentence masked and predicted, (c) one question a report. Prints rows, seconds, rows/s and
peak memory of each, and how often (b) found the word that stood there.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from secbatch.training.masked_lm_evaluation import make_probes

SAMPLE = Path(__file__).parents[1] / "sample_data" / "reports.parquet"
CLOZE = "{sentence} The attackers gained initial access through <mask>."
TERMS = ("backdoor", "botnet", "credential dumping", "DDoS", "exfiltration", "lateral movement", "malware",
         "persistence", "phishing", "ransomware", "remote access trojan", "supply chain", "web shell")  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """What one run took, start of the process and loading of the models included."""

    rows: int
    seconds: float
    cpu_seconds: float
    peak_mib: float  # largest resident set


def run(folder: Path, name: str, source: Path, tasks: dict[str, Any], sentences: str | None = None) -> Cost:
    job = {
        "name": name,
        "input": {"path": str(source), "sentences": sentences},
        "tasks": tasks,
        "output": {"path": str(folder / name), "mode": "overwrite"},
    }
    job_file = folder / f"{name}.yaml"
    job_file.write_text(json.dumps(job), encoding="utf-8")  # JSON is YAML
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "secbatch", "run", str(job_file)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"`secbatch run {job_file}` ended with exit code {process.returncode}.")
    seconds = time.perf_counter() - begin
    record = json.loads((folder / name / "_secbatch" / "runs" / "latest.json").read_text(encoding="utf-8"))
    return Cost(record["counts"]["enriched"], seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def own_words(folder: Path) -> tuple[Path, list[str]]:
    """A file of the sentences of run (a), one content word masked in each, and the words that stood there."""
    sentences = pq.read_table(folder / "probe" / "data", columns=["sentence"]).column("sentence").to_pylist()
    probes = make_probes(text for text in sentences if text)
    masked = [f"{probe.before}<mask>{probe.after}" for probe in probes]
    pq.write_table(pa.table({"sentence": masked}), folder / "masked.parquet")
    return folder / "masked.parquet", [probe.word for probe in probes]


def hits(folder: Path, words: list[str]) -> tuple[float, float]:
    """Shares of the rows whose word, case aside, is the best prediction, and among the best ten."""
    rows = pq.read_table(folder / "words" / "data", columns=["mask_predictions"]).column("mask_predictions")
    found = [[entry["token"].lower() for entry in row[0]] for row in rows.to_pylist()]
    first = sum(word.lower() in best[:1] for word, best in zip(words, found, strict=True))
    tenth = sum(word.lower() in best[:10] for word, best in zip(words, found, strict=True))
    return first / max(len(words), 1), tenth / max(len(words), 1)


def questions(folder: Path, texts: list[str | None]) -> Path:
    """A file with one question a report: what the term is that the report speaks of most."""
    asked = []
    for text in texts:
        mentions = Counter({term: (text or "").lower().count(term.lower()) for term in TERMS})
        asked.append(f"What is {mentions.most_common(1)[0][0]}?")
    pq.write_table(pa.table({"question": asked}), folder / "questions.parquet")
    return folder / "questions.parquet"


def measure(options: argparse.Namespace, folder: Path) -> None:
    reports = pq.read_table(options.reports, columns=[options.text_column])
    if options.limit:
        reports = reports.slice(0, options.limit)
    pq.write_table(reports, folder / "reports.parquet")
    texts = reports.column(options.text_column).to_pylist()
    print(
        f"{options.reports}: {len(texts):,} reports, {sum(len(text or '') for text in texts):,} characters", flush=True
    )
    cloze = {"type": "fill-mask", "model": options.model, "text": CLOZE}
    embed = {"type": "embed", "model": options.model, "text": "sentence", "normalize": True}
    fill = {"type": "fill-mask", "model": options.model, "text": "sentence", "top_k": 10}
    chat = {"type": "chat", "model": options.chat_model, "text": "question"}
    probe = run(folder, "probe", folder / "reports.parquet", {"access": cloze, "vec": embed}, options.text_column)
    masked, words = own_words(folder)
    costs = {
        "a  cloze and embedding of each sentence": probe,
        "b  own words of the sentences masked": run(folder, "words", masked, {"mask": fill}),
        "c  one question a report": run(folder, "answers", questions(folder, texts), {"answer": chat}),
    }
    print(f"{'':<40}{'rows':>9}{'seconds':>9}{'CPU s':>9}{'rows/s':>9}{'peak MiB':>10}")
    for name, cost in costs.items():
        rate = cost.rows / cost.seconds
        print(
            f"{name:<40}{cost.rows:>9,}{cost.seconds:>9.1f}{cost.cpu_seconds:>9.1f}{rate:>9.1f}{cost.peak_mib:>10,.0f}"
        )
    first, tenth = hits(folder, words)
    print(f"b  hit@1 {first:.3f}, hit@10 {tenth:.3f} over {len(words):,} masked words")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=Path, default=SAMPLE, help="a Parquet file with one report a row")
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--model", default="builtin/mlm", help="masked language model: catalog name, hub id or folder")
    parser.add_argument("--chat-model", default="builtin/chat")
    parser.add_argument("--limit", type=int, help="only the first N reports")
    parser.add_argument("--keep", type=Path, help="keep jobs, inputs and results in this folder")
    options = parser.parse_args(arguments)
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
        measure(options, options.keep)
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(options, Path(folder))


if __name__ == "__main__":
    main()
