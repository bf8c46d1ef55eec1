"""Coverage-guided fuzzing with atheris: `python tests/fuzz/guided.py csv -runs=50000` (also jsonl, parquet, job).

Arguments after the kind go to libFuzzer. What it finds lies in the working folder as crash-…; the same command with
that file as its last argument shows it again. Parquet is read by native code that coverage does not reach into:
there the mutations start from whole files of many kinds.
"""

import json
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["secbatch"]):
    from checks import check_csv, check_job, check_jsonl, check_parquet

import yaml
from drawn import JOB, parquet_files

CHECKS = {"csv": check_csv, "jsonl": check_jsonl, "parquet": check_parquet, "job": check_job}
SEEDS = {
    "csv": [
        b'a,b\n1,"x ""y"", z"\n2,\n',
        b"a;b\r\n1;2\r\n",
        b'\xef\xbb\xbfa,b\n"1\n2",3\n"x,4\n5,6\n',
        b"a\n1\n\n2\n",
        b'a\nx"\xff"y\n"z\n"\n',
    ],
    "jsonl": [
        b'{"a": 1, "b": "x"}\n{"a": 1.5, "b": [1, {"c": null}]}\n',
        b'{"a": true}\nnot json\n\n[]\n{"a": "\\ud800"}\n',
    ],
    "job": [yaml.safe_dump(JOB).encode(), json.dumps(JOB).encode(), b"name: a\ninput: &x {path: in}\ntasks: {a: *x}\n"],
}


def main() -> None:
    kind, *options = sys.argv[1:]
    check = CHECKS[kind]
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(parquet_files() if kind == "parquet" else SEEDS[kind]):
            Path(corpus, f"seed-{number}").write_bytes(seed)
        limit = "-max_len=16384" if kind == "parquet" else "-max_len=2048"
        atheris.Setup(
            [sys.argv[0], limit, "-timeout=30", "-rss_limit_mb=4096", *options, corpus], lambda data: check(bytes(data))
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
