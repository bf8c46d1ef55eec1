"""Arrow's memory is the C library's, unless somebody has chosen."""

import pyarrow as pa
import pytest

from secbatch.arrow_memory import use_system_memory


@pytest.mark.parametrize(("chosen", "wanted"), [("", ["system"]), ("mimalloc", [])])
def test_a_choice_of_the_environment_stands(chosen: str, wanted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    monkeypatch.setenv("ARROW_DEFAULT_MEMORY_POOL", chosen)
    monkeypatch.setattr(pa, "set_memory_pool", lambda pool: used.append(pool.backend_name))
    use_system_memory()
    assert used == wanted
