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


def in_oldest_tar(content):
    """Without the mark that later kinds have, as `tar --format=v7` writes it."""
    head = bytearray(in_tar(content, tarfile.USTAR_FORMAT))
    head[257:265] = bytes(8)
    head[148:156] = b" " * 8
    head[148:155] = b"%06o\0" % sum(head[:512])
    return bytes(head)


@pytest.mark.parametrize("format_", TEXTS)
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (gzip.compress, "is compressed twice .gzip in gzip.; unpack it once"),
        (bz2.compress, "is compressed twice .bz2 in gzip.; unpack it once"),
        (lambda text: in_tar(text, tarfile.GNU_FORMAT), "is a tar archive; unpack it"),
        (lambda text: in_tar(text, tarfile.USTAR_FORMAT), "is a tar archive; unpack it"),
        (in_oldest_tar, "is a tar archive; unpack it"),
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


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (gzip.compress(b"PAR1", mtime=0), "is compressed .gzip.; unpack it"),
        (in_tar(b"PAR1", tarfile.GNU_FORMAT), "is a tar archive; unpack it"),
        (b"PK\x03\x04", "is a zip archive or an Excel workbook"),
        (b"PAR1 cut off", "is no readable Parquet file"),
        (TEXTS["csv"], "is no readable Parquet file"),
    ],
)
def test_what_is_no_parquet_is_said(tmp_path, content, reason):
    with pytest.raises(InputError, match=rf"t\.parquet {reason}"):
        source_of(written(tmp_path, "t.parquet", content))


@pytest.mark.parametrize("format_", TEXTS)
def test_byte_order_marks_of_two_encodings(tmp_path, format_):
    text = codecs.BOM_UTF8 + ("\ufeff" + TEXTS[format_].decode()).encode("utf-16-le")
    with pytest.raises(InputError, match="has the byte order marks of utf-8 and of utf-16, one after the other; write"):
        source_of(written(tmp_path, f"t.{format_}", text))


def test_a_header_that_its_byte_order_mark_is_wrong_about(tmp_path):
    for encoding in (None, "cp1252"):  # which the mark outdoes
        with pytest.raises(InputError, match=r"not valid UTF-8 .byte 0xe9.; its byte order mark says that it is"):
            source_of(written(tmp_path, "t.csv", codecs.BOM_UTF8 + b"id,caf\xe9\n"), encoding=encoding)


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
