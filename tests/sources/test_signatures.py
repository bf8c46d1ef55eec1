import bz2
import codecs
import gzip
import io
import tarfile

import pytest
from helpers import source_of, table_of, written

from secbatch.errors import InputError
from secbatch.sources.signatures import compression_of

TEXTS = {"csv": b"id,text\n1,a\n", "jsonl": b'{"id": 1, "text": "a"}\n'}


def in_tar(content, form):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form) as archive:
        entry = tarfile.TarInfo("reports.csv")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


@pytest.mark.parametrize("format_", TEXTS)
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (gzip.compress, "is compressed twice .gzip in gzip.; unpack it once"),
        (bz2.compress, "is compressed twice .bz2 in gzip.; unpack it once"),
        (lambda text: in_tar(text, tarfile.GNU_FORMAT), "is a tar archive; unpack it"),
        (lambda text: in_tar(text, tarfile.USTAR_FORMAT), "is a tar archive; unpack it"),
        (lambda text: b"PK\x03\x04" + text, "is a zip archive or an Excel workbook"),
        (lambda text: b"\xd0\xcf\x11\xe0" + text, "is an Excel workbook"),
        (lambda text: b"PAR1" + text, "is a Parquet file; unpack it and say `input.format: parquet`"),
    ],
)
def test_what_is_no_text_is_said_of_compressed_files_too(tmp_path, format_, content, reason):
    path = written(tmp_path, f"t.{format_}.gz", gzip.compress(content(TEXTS[format_])))
    with pytest.raises(InputError, match=rf"t\.{format_}\.gz {reason}"):
        source_of(path)


def test_an_archive_that_is_not_compressed(tmp_path):
    with pytest.raises(InputError, match="is a tar archive"):
        source_of(written(tmp_path, "t.csv", in_tar(TEXTS["csv"], tarfile.GNU_FORMAT)))
    with pytest.raises(InputError, match=r"is a Parquet file; say `input.format: parquet`"):
        source_of(written(tmp_path, "p.csv", b"PAR1" + TEXTS["csv"]))


def test_a_header_may_start_as_the_name_of_a_compression_does(tmp_path):
    source = source_of(written(tmp_path, "t.csv", b"BZh,text\n1,a\n"))
    assert table_of(list(source.shards())).to_pylist() == [{"BZh": "1", "text": "a"}]
    assert compression_of(bz2.compress(b"a")) == compression_of(bz2.compress(b"")) == "bz2"


@pytest.mark.parametrize("format_", TEXTS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
def test_byte_order_marks_that_stand_twice_are_no_text(tmp_path, format_, encoding):
    text = "\ufeff\ufeff" + TEXTS[format_].decode()
    [row] = table_of(list(source_of(written(tmp_path, f"t.{format_}", text.encode(encoding))).shards())).to_pylist()
    assert set(row) == {"id", "text"} and row["text"] == "a"


def test_places_of_rejects_count_all_byte_order_marks(tmp_path):
    text = codecs.BOM_UTF8 * 2 + b"id,text\n1,a\n2\n"
    [shard] = source_of(written(tmp_path, "t.csv", text)).shards()
    [reject] = shard.rejects
    assert reject.byte_offset == text.index(b"2\n")
