"""The bundled data and jobs: they parse, hold what their README says, and name nothing real."""

import csv
import importlib.util
import ipaddress
import json
import re
import string
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from secbatch.finetune_jobfile import load_finetune_job
from secbatch.finetuning.dataset import load_dataset
from secbatch.job import Job
from secbatch.task_specs import CHAT_PROMPT, Chat, Embed, FillMask

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "sample_data"
JOBS = sorted(path for path in (ROOT / "jobs").glob("*.yaml") if not path.stem.startswith("finetune-"))
TRAININGS = sorted((ROOT / "jobs").glob("finetune-*.yaml"))
COLUMNS = ["report_id", "line", "report_date", "sentence", "thread", "turn", "question"]
DAMAGED = {"000421", "000423", "000425", "000428"}  # as sample_data/README.md lists them
TRIAL_SENTENCES = [
    "Adversaries may also compromise sites then include <mask> content designed to collect website "
    "authentication cookies from visitors.",
    "One example of this is MS14-068, which targets <mask> and can be used to forge Kerberos tickets "
    "using domain user permissions.",
    "Paris is the <mask> of France.",
    "Virus causes <mask>.",
    "Sending huge amount of packets through network leads to <mask>.",
    "A <mask> injection occurs when an attacker inserts malicious code into a server",
]

RESERVED_NAMES = ("example", "example.com", "example.net", "example.org", "test", "invalid", "localhost")
RESERVED_NETWORKS = [ipaddress.ip_network(n) for n in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")]
ADDRESS = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\d)")
AFTER_SCHEME_OR_AT = re.compile(r"(?:h(?:xx|tt)ps?://|@)([\w.-]+\w)", re.IGNORECASE)
DEFANGED = re.compile(r"[\w.-]+\[\.\][\w.\[\]-]*\w")
TOP_LEVELS = "com|net|org|info|biz|io|ru|cn|xyz|top|eu|de|uk|fr|us|dev|app|cloud|online|site|club"
DOMAIN = re.compile(rf"[\w.-]+\.(?:{TOP_LEVELS}|example|test|invalid)\b", re.IGNORECASE)


def read_strict(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, strict=True))
    assert all(None not in row and None not in row.values() for row in rows), "a row of another width"
    return rows


def hosts_in(text: str) -> set[str]:
    found = {match.replace("[.]", ".") for match in DEFANGED.findall(text)}
    found.update(AFTER_SCHEME_OR_AT.findall(text), DOMAIN.findall(text))
    return {host.lower() for host in found if not ADDRESS.fullmatch(host)}


def is_reserved(host: str) -> bool:
    return any(host == name or host.endswith("." + name) for name in RESERVED_NAMES)


def conversations_are_numbered(rows: list[dict[str, str]]) -> bool:
    turns: dict[str, list[int]] = {}
    for row in rows:
        turns.setdefault(row["thread"], []).append(int(row["turn"]))
    return all(numbers == list(range(1, len(numbers) + 1)) for numbers in turns.values())


def test_sentences_parse_strictly_and_have_unique_ids() -> None:
    rows = read_strict("sentences.csv")
    assert list(rows[0]) == COLUMNS
    assert len(rows) == 256
    assert len({(row["report_id"], row["line"]) for row in rows}) == len(rows)
    assert all(row["sentence"].strip() for row in rows)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", row["report_date"]) for row in rows)


def test_sentences_cover_what_their_readme_promises() -> None:
    rows = read_strict("sentences.csv")
    sentences = [row["sentence"] for row in rows]
    masks = Counter(sentence.count("<mask>") for sentence in sentences)
    assert masks[1] > masks[0] + masks[2] + masks[3]
    assert masks[0] >= 20 and masks[2] >= 10 and masks[3] >= 1
    hard = (",", '"', "\n", "ü", "[.]example", "hxxp://", "C:\\Windows\\System32", "CVE-2099-", "</s>")
    for wanted in hard:
        assert any(wanted in sentence for sentence in sentences), wanted
    assert all(row["report_id"].startswith("00") for row in rows)


def test_sentences_hold_the_trial_sentences_and_the_two_questions() -> None:
    rows = read_strict("sentences.csv")
    assert set(TRIAL_SENTENCES) <= {row["sentence"] for row in rows}
    ddos = [row["question"] for row in rows if row["thread"] == "ddos"]
    assert ddos == ["What is DDoS", "How can we prevent it?"]


def test_a_question_has_its_thread_and_turn_and_nothing_else_does() -> None:
    rows = read_strict("sentences.csv")
    assert all(bool(row["question"]) == bool(row["thread"]) == bool(row["turn"]) for row in rows)
    assert conversations_are_numbered([row for row in rows if row["question"]])


def test_questions_are_conversations_in_order() -> None:
    rows = read_strict("questions.csv")
    assert list(rows[0]) == ["thread", "turn", "question"]
    assert len(rows) == 60
    assert [row["question"] for row in rows[:2]] == ["What is DDoS", "How can we prevent it?"]
    assert conversations_are_numbered(rows)


def test_parquet_is_what_build_makes_of_the_jsonl() -> None:
    spec = importlib.util.spec_from_file_location("sample_data_build", DATA / "build.py")
    assert spec is not None and spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    table = pq.read_table(DATA / "reports.parquet")
    assert table.equals(build.read_reports())
    types = [str(field.type) for field in table.schema]
    assert types == ["string", "string", "date32[day]", "double", "string"]
    reports = table.to_pylist()
    assert len({report["report_id"] for report in reports}) == len(reports) == 20
    assert all(100 <= len(report["text"].split()) <= 300 for report in reports)
    assert table.column("severity").null_count == 1


def test_messy_has_the_damage_that_its_readme_lists() -> None:
    raw = (DATA / "messy.csv").read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf")
    assert raw.count(b"\n") == raw.count(b"\r\n") > 24  # CRLF throughout: no conversion at checkout
    lines = raw.split(b"\r\n")
    assert b"" in lines[:-1]
    assert {line[:6].decode() for line in lines if re.match(rb"\d{6};", line)} == {
        f"000{number}" for number in range(417, 441)
    }
    listed = re.findall(r"^\| (\d{6}) \| (\d+) \|", (DATA / "README.md").read_text("utf-8"), re.MULTILINE)
    assert {ticket for ticket, _ in listed} == DAMAGED
    for ticket, line in listed:
        assert lines[int(line) - 1].startswith(ticket.encode())
    invalid = [line[:6] for line in lines if b"\xef\xbf\xbd" in line.decode("utf-8", "replace").encode()]
    assert invalid == [b"000425"]


def test_messy_is_sound_but_for_the_damaged_tickets() -> None:
    raw = (DATA / "messy.csv").read_bytes().decode("utf-8-sig", "replace")
    records = re.split(r"\r\n(?=\d{6};)", raw)
    for record in records:
        if record[:6] in DAMAGED:
            continue
        reader = csv.reader(record.splitlines(keepends=True), delimiter=";", strict=True)
        rows = [row for row in reader if row]  # blank lines between records give empty rows
        assert len(rows) == 1 and len(rows[0]) == 4, record


@pytest.mark.parametrize(
    "name",
    [
        "sentences.csv",
        "questions.csv",
        "messy.csv",
        "reports.jsonl",
        "topics.csv",
        "entities.conll",
        "answers.jsonl",
        "techniques.csv",
        "masked_words.csv",
    ],
)
def test_only_reserved_domains_and_addresses(name: str) -> None:
    text = (DATA / name).read_bytes().decode("utf-8", "replace")
    assert {host for host in hosts_in(text) if not is_reserved(host)} == set()
    for address in ADDRESS.findall(text):
        assert any(ipaddress.ip_address(address) in network for network in RESERVED_NETWORKS), address
    assert {cve for cve in re.findall(r"CVE-\d+-\d+", text) if not cve.startswith("CVE-2099-")} == set()


def test_the_search_for_domains_finds_real_ones() -> None:
    text = "hxxp://bad.attacker.ru/x, evil[.]com, mail a@corp.de, www.vendor.io, 8.8.8.8 or cdn[.]example"
    found = {host for host in hosts_in(text) if not is_reserved(host)}
    assert found == {"bad.attacker.ru", "evil.com", "corp.de", "www.vendor.io"}
    assert ADDRESS.findall(text) == ["8.8.8.8"]


def load(path: Path) -> Job:
    return Job.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def columns_of(job: Job) -> set[str]:
    source = ROOT / ("sample_data/sentences.csv" if job.name == "nightly" else job.input.path)
    if source.suffix == ".parquet":
        columns = set(pq.read_schema(source).names)
    elif source.suffix == ".jsonl":
        columns = set(json.loads(source.read_text(encoding="utf-8").splitlines()[0]))
    else:
        header = source.read_text(encoding="utf-8-sig", errors="replace").splitlines()[0]
        columns = set(re.split("[,;]", header))
    return columns | ({"sentence"} if job.input.sentences else set())


def test_masked_words_have_one_mask_a_sentence_and_two_parts() -> None:
    with (DATA / "masked_words.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24 and {row["text"].count("<mask>") for row in rows} == {1}
    assert all(row["word"].isalpha() for row in rows)
    assert [sum(row["part"] == part for row in rows) for part in ("object", "verb")] == [12, 12]


def test_the_jobs_are_there() -> None:
    assert {path.stem for path in JOBS} >= {
        "nightly",
        "one-off",
        "qa",
        "quickstart",
        "reports",
        "seq2seq",
        "similarity",
    }


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_job_is_valid_and_reads_columns_that_exist(path: Path) -> None:
    job = load(path)
    assert job.name == path.stem
    assert job.output.path == f"enriched/{path.stem}"
    wanted = {*job.input.id, *job.input.types, *job.output.partition_by}
    wanted.update({job.input.sentences} - {None})
    for task in job.tasks.values():
        placeholders = {name for _, name, _, _ in string.Formatter().parse(task.text) if name}
        wanted.update(placeholders or {task.text})
        if isinstance(task, Chat) and task.conversation is not None:
            wanted.update((task.conversation.id, task.conversation.order))
    assert wanted <= columns_of(job)


def test_quickstart_shows_all_three_with_the_built_in_models() -> None:
    job = load(ROOT / "jobs/quickstart.yaml")
    assert {type(task) for task in job.tasks.values()} == {FillMask, Embed, Chat}
    assert {task.model for task in job.tasks.values()} == {"builtin/mlm", "builtin/chat"}


def test_nightly_asks_blenderbot_with_the_default_prompt_and_is_incremental() -> None:
    job = load(ROOT / "jobs/nightly.yaml")
    answer = job.tasks["answer"]
    assert isinstance(answer, Chat)
    assert answer.prompt == CHAT_PROMPT
    assert {task.model for task in job.tasks.values()} == {"securebert", "blenderbot"}
    assert job.output.mode == "incremental"


@pytest.mark.parametrize("path", TRAININGS, ids=lambda path: path.stem)
def test_training_job_is_valid_and_its_data_can_be_learned_from(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    job = load_finetune_job(str(path))
    assert job.output == f"models/{job.name}"
    data = load_dataset(job)
    assert len(data.train.examples) > len(data.dev.examples) > 0


def test_there_is_a_training_job_for_each_objective() -> None:
    objectives = {load_finetune_job(str(path)).objective for path in TRAININGS}
    assert objectives == {"masked-lm", "classify", "ner", "qa", "seq2seq"}


def test_the_job_of_the_readme_is_for_the_columns_that_it_speaks_of() -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    job = Job.model_validate(yaml.safe_load(text))
    assert {*job.input.id, *job.input.types} <= set(COLUMNS)  # reports/*.csv have those of sentences.csv
