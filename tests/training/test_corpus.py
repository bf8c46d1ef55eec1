"""Reading the corpus: what is found, what is held out, what is dropped as boilerplate."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from secbatch.training.corpus import held_out, read_corpus


def write_attack(folder: Path, rows: int) -> None:
    table = pa.table(
        {
            "stix_id": [f"malware--{row}" for row in range(rows)],
            "text": [f"[Tool{row}](https://x.y/{row}) has stolen files from disk.(Citation: A)" for row in range(rows)],
        }
    )
    pq.write_table(table, folder / "attack_descriptions.parquet")


def test_missing_files_are_skipped_aloud_and_the_rest_is_read(tmp_path: Path) -> None:
    write_attack(tmp_path, 3)
    said: list[str] = []
    documents, files = read_corpus(tmp_path, said.append)
    assert {entry.source for entry, _ in files} == {"attack", "general"}
    assert documents[0].sentences == ("Tool0 has stolen files from disk.",)
    assert any(line.startswith("skipped sigma_rules.csv") for line in said)


def test_a_folder_without_any_corpus_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"attack_descriptions\.parquet"):
        read_corpus(tmp_path, lambda line: None)


def test_the_held_out_part_has_the_asked_size_and_does_not_depend_on_order(tmp_path: Path) -> None:
    keys = [f"relationship--{number}" for number in range(5_000)]
    chosen = {key for key in keys if held_out(key, 2.0)}
    assert 60 <= len(chosen) <= 140
    assert chosen == {key for key in reversed(keys) if held_out(key, 2.0)}


def test_boilerplate_that_differs_only_in_numbers_is_kept_twice(tmp_path: Path) -> None:
    texts = [f"Update the product to version {number} or later now." for number in range(9)]
    table = pa.table({"advisory": [f"A-{number}" for number in range(9)], "text": texts})
    pq.write_table(table, tmp_path / "csaf_advisories.parquet")
    documents, _ = read_corpus(tmp_path, lambda line: None)
    assert sum(document.source == "csaf" for document in documents) == 2


def test_words_of_a_labelled_sentence_are_joined_as_text(tmp_path: Path) -> None:
    (tmp_path / "cyner").mkdir()
    lines = ["The\tO", "Trojan\tB-Malware", "(\tO", "new\tO", ")\tO", "spread\tO", ".\tO", "", "Next\tO", "one\tO"]
    (tmp_path / "cyner" / "train.txt").write_text("\n".join(lines), encoding="utf-8")
    documents, _ = read_corpus(tmp_path, lambda line: None)
    joined = [document.sentences[0] for document in documents if document.source == "cyner"]
    assert joined == ["The Trojan (new) spread.", "Next one"]
