"""No secret survives; what is no secret stays readable."""

import time

import pytest

from secbatch.errors import InputError
from secbatch.redaction import redacted, redacted_values


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://KEY:SECRET@bucket/a/*.csv", "s3://***@bucket/a/*.csv"),
        ("s3://KEY:SEC/RE+T=@bucket/a", "s3://***@bucket/a"),
        ("sftp://user@host/a", "sftp://***@host/a"),
        ("s3://b/a.csv?region=eu-west-1&secret_key=SECRET", "s3://b/a.csv?region=eu-west-1&secret_key=***"),
        (
            "https://h/a?X-Amz-Signature=SECRET&sig=SECRET;token=SECRET",
            "https://h/a?X-Amz-Signature=***&sig=***;token=***",
        ),
        ("s3://b/a?endpoint_override=key:SECRET@host", "s3://b/a?endpoint_override=***"),
        ("cannot read 's3://k:SECRET@b/a' (no such key)", "cannot read 's3://***@b/a' (no such key)"),
        ("Authorization: Bearer SECRET.abc", "Authorization: Bearer ***"),
        ("HF_TOKEN is hf_abcdefghijklmnopSECRET", "HF_TOKEN is ***"),
        ("AKIASECRETSECRET1234", "***"),
        ("ASIASECRETSECRET1234", "***"),
        ("ghs_abcdefghijklmnopqrstSECRET", "***"),
        ("https://hub/a of hf_abcdefghijklmnopSECRET", "https://hub/a of ***"),
        ("proxy http://me:SECRET@proxy:8080/ fails", "proxy http://***@proxy:8080/ fails"),
        ("http://:SECRET@host/", "http://***@host/"),
        (
            "no folder /data/s3:/KEY:SEC/RE+T=@b and 's3:/b?secret_key=SECRET'",
            "no folder /data/s3:/***@b and 's3:/b?secret_key=***'",
        ),
        # no secrets:
        ("hdfs://host:8020/mail/a@b.csv", "hdfs://host:8020/mail/a@b.csv"),
        ("s3://bucket/mail/a@b.csv", "s3://bucket/mail/a@b.csv"),
        ("mail me@example.org about x://y", "mail me@example.org about x://y"),
        ("password=in-a-row", "password=in-a-row"),
        ("a?b=c&d=e", "a?b=c&d=e"),
        ("C:/mail/a@b.csv, C:/a.csv:5 and at 12:/3", "C:/mail/a@b.csv, C:/a.csv:5 and at 12:/3"),
    ],
)
def test_redacted(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert "SECRET" not in redacted(text)
    assert redacted(redacted(text)) == shown


@pytest.mark.parametrize(
    "text",
    [
        "://" + "a" * 80_000,
        "a" * 80_000 + "://",
        "x://a:b" * 12_000,
        "x@y" + "x://a:b" * 12_000,
        "x://a:b" * 12_000 + "@",
        "x://h?" + "a=b&" * 20_000,
    ],
    ids=["behind a scheme", "scheme", "schemes", "at, schemes", "schemes, at", "parameters"],
)
def test_long_texts_take_linear_time(text: str) -> None:
    start = time.process_time()
    redacted(text)
    assert time.process_time() - start < 2


def test_values_of_any_shape() -> None:
    values = {"a": ["s3://k:SECRET@b", 1, None], "s3://k:SECRET@b": {"x": ("s3://b?token=SECRET",)}}
    assert redacted_values(values) == {"a": ["s3://***@b", 1, None], "s3://***@b": {"x": ["s3://b?token=***"]}}


def test_errors_never_hold_a_secret() -> None:
    assert str(InputError("input path 's3://k:SECRET@b' is gone")) == "input path 's3://***@b' is gone"
