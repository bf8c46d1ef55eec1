"""Each benchmark says what it measures, and with which options."""

from collections.abc import Callable
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NAMES = [file.name for file in sorted(BENCHMARKS.glob("*.py")) if "__main__" in file.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", NAMES)
def test_help(name: str, benchmark: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        benchmark(name, "--help")
    assert not ended.value.code and f"usage: {name}" in capsys.readouterr().out
