import gzip
import os
import time

import pyarrow.fs as pafs
import pytest
from helpers import source_of, table_of, written

from secbatch.errors import InputError, SourceLostError
from secbatch.sources import paths
from secbatch.sources.input_file import InputFile
from secbatch.sources.listing import without_links
from secbatch.sources.paths import Found, bounded, find_files, from_uri, settled

CSV = "id,text\n1,a\n"


def names(found):
    return [file.path for file in found.files]


def test_file_glob_and_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("r/b.csv", "r/a.csv", "r/deep/er/c.csv", "r/.hidden.csv", "r/_tmp/d.csv", "r/_SUCCESS"):
        written(tmp_path, name, CSV)
    assert names(find_files("r/a.csv")) == ["r/a.csv"]
    assert names(find_files("r/*.csv")) == ["r/a.csv", "r/b.csv"]
    assert names(find_files("r/**/*.csv")) == ["r/_tmp/d.csv", "r/a.csv", "r/b.csv", "r/deep/er/c.csv"]
    assert names(find_files("r")) == names(find_files("r/")) == ["r/a.csv", "r/b.csv", "r/deep/er/c.csv"]
    assert names(find_files("*/a.csv")) == ["r/a.csv"]
    assert names(find_files("r/[ab].csv")) == ["r/a.csv", "r/b.csv"]
    monkeypatch.chdir(tmp_path / "r")
    assert names(find_files("*.csv")) == ["a.csv", "b.csv"]
    assert names(find_files(".")) == ["./a.csv", "./b.csv", "./deep/er/c.csv"]
    absolute = f"{tmp_path}/r/?.csv"
    assert names(find_files(absolute)) == [f"{tmp_path}/r/a.csv", f"{tmp_path}/r/b.csv"]


def test_a_relative_path_that_begins_like_a_uri_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("siem:eu/a:b/x.csv", "siem:eu/y.csv", "edr:us.csv"):
        written(tmp_path, name, CSV)
    assert names(find_files("siem:eu")) == ["siem:eu/a:b/x.csv", "siem:eu/y.csv"]
    assert names(find_files("siem:eu/y.csv")) == names(find_files("siem:eu/*.csv")) == ["siem:eu/y.csv"]
    assert names(find_files("siem:*/*.csv")) == ["siem:eu/y.csv"]
    assert names(find_files("edr:*.csv")) == names(find_files("edr:us.csv")) == ["edr:us.csv"]
    with pytest.raises(InputError, match=r"does not exist .did you mean 'edr:us\.csv'"):
        find_files("edr:uk.csv")


def test_partition_folders_and_globs_over_folders(tmp_path):
    for name in ("date=1/a.csv", "date=2/b.csv", "other/c.csv"):
        written(tmp_path, name, CSV)
    assert [n.rsplit("/", 2)[1:] for n in names(find_files(f"{tmp_path}/date=*"))] == [
        ["date=1", "a.csv"],
        ["date=2", "b.csv"],
    ]


def test_a_glob_takes_the_rows_of_an_output_once(tmp_path):
    for name in ("versions/000001/0.csv", "versions/000002/0.csv", "parts/0.csv"):
        written(tmp_path, f"out/_secbatch/{name}", CSV)
    (tmp_path / "out/data").symlink_to("_secbatch/versions/000002")
    written(tmp_path, "in/a.csv", CSV)
    data, other = f"{tmp_path}/out/data/0.csv", f"{tmp_path}/in/a.csv"
    assert names(find_files(f"{tmp_path}/**/*.csv")) == [other, data]
    assert names(find_files(f"{tmp_path}/out/**/*.csv")) == names(find_files(f"{tmp_path}/*/data/*.csv")) == [data]
    assert names(find_files(f"{tmp_path}/*/_secbatch/parts/*.csv")) == [f"{tmp_path}/out/_secbatch/parts/0.csv"]


def test_a_name_with_brackets_is_a_file(tmp_path):
    path = written(tmp_path, "report[1].csv", CSV)
    assert names(find_files(str(path))) == [str(path)]


def test_missing_file_names_the_nearest(tmp_path):
    written(tmp_path, "reports.csv", CSV)
    with pytest.raises(InputError, match=r"does not exist \(did you mean 'reports.csv'\?\)"):
        find_files(f"{tmp_path}/report.csv")
    with pytest.raises(InputError, match="does not exist"):
        find_files(f"{tmp_path}/no/such/folder/x.csv")
    with pytest.raises(InputError, match=r"no file matches.*did you mean 'reports.csv'"):
        find_files(f"{tmp_path}/reportz*.csv")
    with pytest.raises(InputError, match=r"folder '.*nofolder' does not exist"):
        find_files(f"{tmp_path}/nofolder/*.csv")
    with pytest.raises(InputError, match="is empty; name a file"):
        find_files(" ")


@pytest.mark.parametrize(("below", "named"), [("/it's", " at '{0}/it's'"), ("", "")])
def test_a_folder_that_may_not_be_read_is_named(below, named, tmp_path, monkeypatch):
    def locked(filesystem, root, recursive):  # as Arrow says it; nothing is locked for root
        raise PermissionError(13, f"Cannot list directory '{root}{below}'. Detail: [errno 13] Permission denied")

    monkeypatch.setattr(paths, "entries_below", locked)
    with pytest.raises(InputError) as refused:
        find_files(str(tmp_path))
    said = f"input path '{tmp_path}' may not be read: permission denied{named.format(tmp_path)}; mend the rights"
    assert str(refused.value) == said


def test_formats_by_ending(tmp_path):
    with pytest.raises(InputError, match=r"cannot tell the format of .*x\.log"):
        find_files(str(written(tmp_path, "x.log", CSV)))
    assert find_files(str(tmp_path / "x.log"), "csv").files[0].format == "csv"
    with pytest.raises(InputError, match="has no file of a known format"):
        find_files(str(tmp_path))
    with pytest.raises(InputError, match=r"for another ending name a glob such as '\*\.txt' and `input\.format: csv`"):
        find_files(str(tmp_path), "csv")
    written(tmp_path, "y.txt", CSV)
    assert [file.path for file in find_files(f"{tmp_path}/*.log", "csv").files] == [f"{tmp_path}/x.log"]
    with pytest.raises(InputError, match="has no file of a known format"):
        find_files(f"{tmp_path}/*.log")
    (tmp_path / "y.txt").unlink()
    written(tmp_path, "a.csv", CSV)
    found = find_files(str(tmp_path))
    assert len(found.files) == 1
    assert found.notices == (f"1 other file under '{tmp_path}' left out",)
    assert find_files(f"file://{tmp_path}?secret_key=SECRET").notices == (
        f"1 other file under 'file://{tmp_path}?secret_key=***' left out",
    )
    written(tmp_path, "b.jsonl.gz", gzip.compress(b"{}"))
    with pytest.raises(InputError, match=r"several formats .csv, jsonl.; choose one"):
        find_files(str(tmp_path))
    (only,) = find_files(str(tmp_path), "jsonl").files
    assert (only.format, only.compression) == ("jsonl", "gzip")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="has no files in it"):
        find_files(str(empty))


def test_a_workbook_is_said_to_be_one(tmp_path):
    for name in ("a.xlsx", "b.XLS"):
        with pytest.raises(InputError, match=rf"{name}' is a workbook; save its sheet as CSV and name that file"):
            find_files(str(written(tmp_path, name, b"PK")))


def test_part_files_without_ending_when_the_format_is_named(tmp_path):
    for name in ("out/part-00000", "out/part-00001", "out/_SUCCESS", "out/.part-00000.crc"):
        written(tmp_path, name, CSV)
    assert len(find_files(str(tmp_path / "out"), "csv").files) == 2


def test_file_uri(tmp_path):
    written(tmp_path, "r/a.csv", CSV)
    written(tmp_path, "r/b.csv", CSV)
    uri = f"file://{tmp_path}/r"
    assert names(find_files(f"{uri}/a.csv")) == [f"{uri}/a.csv"]
    assert names(find_files(f"{uri}/*.csv")) == names(find_files(uri)) == [f"{uri}/a.csv", f"{uri}/b.csv"]
    source = source_of(f"{uri}/*.csv")
    assert table_of(list(source.shards())).num_rows == 2
    with pytest.raises(InputError, match=r"does not exist .did you mean 'a.csv'"):
        find_files(f"{uri}/aa.csv")
    with pytest.raises(InputError, match="is no usable URI"):
        find_files("gopher://x/y.csv")
    with pytest.raises(InputError, match="is an address of the web; fetch the file, and name that"):
        find_files("https://x/y.csv")
    with pytest.raises(InputError, match="has nothing where the host or bucket must stand"):
        find_files("s3://")


def test_object_store(monkeypatch):
    """The walk over a store without folders, with pyarrow's own store for tests behind an s3-like URI."""
    import datetime

    from pyarrow._fs import _MockFileSystem

    store = _MockFileSystem(datetime.datetime(2024, 1, 1))
    for name in ("bucket/2024/a.csv", "bucket/2024/b.csv", "bucket/2025/c.csv"):
        store.create_dir(name.rsplit("/", 1)[0])
        with store.open_output_stream(name) as out:
            out.write(CSV.encode())

    def from_uri(uri):
        return store, uri.removeprefix("mock://").split("?")[0]

    monkeypatch.setattr(paths, "from_uri", from_uri)
    found = find_files("mock://bucket/*/*.csv?region=eu")
    assert names(found) == [f"mock://bucket/{n}.csv" for n in ("2024/a", "2024/b", "2025/c")]
    source = source_of("mock://bucket/2024")
    shards = list(source.shards())
    assert table_of(shards).num_rows == 2
    assert shards[0].source.to_pylist() == ["mock://bucket/2024/a.csv", "mock://bucket/2024/b.csv"]


def test_permission_denied(tmp_path, monkeypatch):
    path = written(tmp_path, "a.csv", CSV)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(paths, "_folder", refuse)
    with pytest.raises(InputError, match="may not be read: permission denied"):
        find_files(str(tmp_path))
    assert names(find_files(str(path))) == [str(path)]


def test_links_to_what_is_not_there_are_named_where_there_is_nothing_else(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r/a.csv").symlink_to("nowhere.csv")
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    for path, words in (
        ("r/a.csv", "is a symbolic link to 'nowhere.csv', which is not there"),
        ("loop.csv", "is a symbolic link to 'loop.csv', which is not there"),
        ("r", f"has no files in it but {tmp_path}/r/a.csv: a symbolic link to what is not there"),
        ("r/*.csv", f"matches no file but {tmp_path}/r/a.csv: a symbolic link to what is not there"),
    ):
        with pytest.raises(InputError, match=words):
            find_files(f"{tmp_path}/{path}")


@pytest.mark.parametrize(("folder", "rows"), [("night", "night/data"), (".", "./night/data"), ("night/", "night/data")])
def test_a_folder_that_is_an_output_is_told_where_its_rows_are(tmp_path, monkeypatch, folder, rows):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "night/_secbatch/versions/000001/0.parquet", "PAR1")
    (tmp_path / "night/data").symlink_to("_secbatch/versions/000001")
    with pytest.raises(InputError, match=f"has no files in it but an output of secbatch, whose rows are in '{rows}'"):
        find_files(folder)


def test_links_do_not_double_files(tmp_path):
    path = written(tmp_path, "r/a/2024.csv", CSV)
    (tmp_path / "r/a/latest.csv").symlink_to(path)
    (tmp_path / "r/a/loop").symlink_to(tmp_path / "r")
    (tmp_path / "r/aa").symlink_to(tmp_path / "r/a")
    (tmp_path / "r/gone.csv").symlink_to(tmp_path / "nowhere.csv")
    found = find_files(str(tmp_path / "r"))
    assert names(found) == [str(path)]
    assert found.notices == (
        f"1 link under '{tmp_path}/r' to files that are read already left out",
        f"{tmp_path}/r/gone.csv is a symbolic link to what is not there, and left for the next run",
    )
    assert found.waiting == 1
    assert names(find_files(f"{tmp_path}/r/**/*.csv")) == [str(path)]
    elsewhere = tmp_path / "s"
    elsewhere.mkdir()
    (elsewhere / "b.csv").symlink_to(path)
    assert names(find_files(str(elsewhere))) == [f"{elsewhere}/b.csv"]


def test_what_is_neither_file_nor_folder():
    with pytest.raises(InputError, match="neither a file nor a folder"):
        find_files("/dev/null", "csv")


def test_pipes_below_a_glob_or_folder_are_named(tmp_path):
    for name in ("b.csv", "c.csv", "_hidden"):
        os.mkfifo(tmp_path / name)
    for path in (f"{tmp_path}/*.csv", f"{tmp_path}/*"):
        with pytest.raises(InputError, match=r"matches no file but .* and \d more: a pipe, a socket or a dev"):
            find_files(path)
    (tmp_path / "a.csv").write_text("x\n1\n")
    for path in (f"{tmp_path}/*.csv", str(tmp_path)):
        found = find_files(path)
        assert [file.path for file in found.files] == [f"{tmp_path}/a.csv"] and found.waiting == 0
        left_out = f"{tmp_path}/b.csv and 1 more left out: a pipe, a socket or a device is not read"
        assert found.notices[0].startswith(left_out)


def test_a_name_that_is_not_utf8_is_named(tmp_path):
    written(tmp_path, "r/a.csv", CSV)
    (tmp_path / "r" / "caf\udce9.csv").write_text(CSV)
    for path in (tmp_path / "r", tmp_path / "r" / "*.csv", tmp_path / "r" / "caf\udce9.csv"):
        with pytest.raises(InputError, match=r"'caf\\xe9\.csv', a name that is not UTF-8; rename it"):
            find_files(str(path))


def test_impossible_paths_and_patterns_are_one_sentence(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"a,b\n1,2\n")
    with pytest.raises(InputError, match="holds a NUL character"):
        find_files(f"{tmp_path}/a\0.csv")
    with pytest.raises(InputError, match=r"'\[z-a\]\.csv' is no pattern of file names: bad character range z-a"):
        find_files(f"{tmp_path}/[z-a].csv")


def test_googles_client_does_not_try_for_a_quarter_of_an_hour():
    assert bounded("gs://bucket/a.csv") == "gs://bucket/a.csv?retry_limit_seconds=5"
    assert bounded("gs://b/a.csv?scheme=http") == "gs://b/a.csv?scheme=http&retry_limit_seconds=5"
    for uri in ("gs://b/a.csv?retry_limit_seconds=60", "s3://b/a.csv?region=eu-west-1"):
        assert bounded(uri) == uri
    assert from_uri("gs://bucket/a.csv")[1] == "bucket/a.csv"


def test_a_store_that_does_not_answer_is_no_mistake_of_the_job(monkeypatch):
    for error, kind in (
        (OSError("curlCode: 6, Could not resolve hostname"), SourceLostError),
        (OSError("no"), InputError),
    ):
        monkeypatch.setattr(paths, "from_uri", lambda uri, error=error: _raise(error))
        monkeypatch.setattr(paths, "may_pass", lambda error: "curlCode" in str(error))
        with pytest.raises(kind, match="cannot be reached"):
            find_files("s3://bucket/a.csv")


def _raise(error):
    raise error


def test_many_files_take_linear_time(tmp_path):
    local = pafs.LocalFileSystem()
    files = tuple(InputFile(f"in/{n}.csv", 9, "csv", None, f"in/{n}.csv", local, 1e9) for n in range(10_000))
    path = written(tmp_path, "a.csv", CSV)
    (tmp_path / "b.csv").symlink_to(path)
    link = local.get_file_info(str(tmp_path / "b.csv"))
    links = [(str(n), link, "csv") for n in range(5_000)]
    start = time.process_time()
    assert settled(Found(files), 60).files == files
    assert without_links(links, local) == (links[:1], 4_999)
    assert time.process_time() - start < 3
