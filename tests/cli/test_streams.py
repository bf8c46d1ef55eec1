"""Standard error that is full or closed costs its lines and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from secbatch.cli.main import _run
from secbatch.cli.streams import unfailing
from secbatch.errors import OutputError, UnfitOutputError
from secbatch.store.filesystem import check_output_place, make_folder

TOLD = """
import os, sys
from secbatch.cli.streams import hold_streams
hold_streams()
place = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
print('a notice', file=sys.stderr, flush=True)
print('results')
os.write(place, b'rows')
os._exit(0 if place > 2 and sys.stderr.fileno() == 2 else 1)
"""


@pytest.mark.parametrize("shell", ["2>/dev/full", "2>&-", "<&- >&- 2>&-", "2>&1 >/dev/null | true"])
def test_standard_error_fails_nobody_and_is_no_other_file(shell: str, tmp_path: Path) -> None:
    command = f'set -o pipefail; "$0" -c "$1" "$2" {shell}'
    file = tmp_path / "data"
    done = subprocess.run(["bash", "-c", command, sys.executable, TOLD, str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert file.read_bytes() == b"rows"


def test_standard_output_shows_what_its_encoding_lacks(tmp_path: Path) -> None:
    shown = "from secbatch.cli.streams import hold_streams; hold_streams(); print('größe 漢')"
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, env=environment)
    assert (done.returncode, done.stdout) == (0, "größe \\u6f22\n".encode("latin-1"))


def test_what_can_be_written_is_written(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        with unfailing(file.fileno()) as stream:
            stream.write("größe\n" * 5000)
        assert os.fstat(file.fileno())  # it stays open
    assert (tmp_path / "log").read_text() == "größe\n" * 5000


def test_a_refusal_of_the_system_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("secbatch.cli.main.cli.main", lambda **_: full())
    assert _run(["show", "x"]) == 1
    assert capsys.readouterr().err == "Error: The system refused to go on: No space left on device.\n"

    for number, words in (
        (13, "Permission denied; mend its rights, or those of the folders above it"),
        (24, "Too many open files; let the process have more open files (ulimit -n)"),
    ):

        def refused(number: int = number, **_: object) -> None:
            raise OSError(number, os.strerror(number), "out")

        monkeypatch.setattr("secbatch.cli.main.cli.main", refused)
        assert _run(["show", "x"]) == 1
        assert capsys.readouterr().err == f"Error: The system refused to go on at 'out': {words}.\n"


def test_places_that_cannot_be_are_said(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("gone")
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    with pytest.raises(UnfitOutputError, match="write the whole path"):
        check_output_place(Path("~nobody/out"))
    make_folder(tmp_path / "new" / ".." / "other")
    assert (tmp_path / "other").is_dir()
    for name, words in (("x" * 300, "too long"), ("link", "link to 'gone'"), ("one/x", "[Ll]oop|levels")):
        with pytest.raises(OutputError, match=words):
            check_output_place(tmp_path / name)


def test_no_output_goes_into_what_belongs_to_another(tmp_path: Path) -> None:
    (tmp_path / "out/_secbatch/versions/000001").mkdir(parents=True)
    (tmp_path / "out/data").symlink_to("_secbatch/versions/000001")
    for name in ("out/data", "out/data/new", "out/_secbatch", "out/_secbatch/versions/000002/../x.parquet"):
        with pytest.raises(UnfitOutputError, match=f"lies within what belongs to the output '{tmp_path}/out'"):
            check_output_place(tmp_path / name)
    check_output_place(tmp_path / "out")
    check_output_place(tmp_path / "out/other")
