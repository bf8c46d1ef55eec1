"""setup.py: what a wheel's name says of what is in it."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NATIVE = Path("src/secbatch/models/native")
COMPILER = (sysconfig.get_config_var("CC") or "cc").split()[0]


@pytest.mark.parametrize("compiled", [True, False])
def test_a_wheel_without_compiled_code_is_for_every_system(tmp_path: Path, compiled: bool) -> None:
    if compiled and not shutil.which(COMPILER):
        pytest.skip(f"there is no {COMPILER}")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / NATIVE).mkdir(parents=True)
    for folder in (NATIVE, *NATIVE.parents[:2]):
        (tmp_path / folder / "__init__.py").touch()
    for source in (ROOT / NATIVE.parents[1]).rglob("*.c"):  # quickly compiled: the real ones take a minute
        (tmp_path / source.relative_to(ROOT)).write_text(f"int from_{source.stem};\n")
    environment = os.environ if compiled else {**os.environ, "CC": "no-such-compiler"}
    command = [sys.executable, "setup.py", "-q", "bdist_wheel"]
    subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True)

    (wheel,) = (tmp_path / "dist").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (about,) = (archive.read(name).decode() for name in names if name.endswith(".dist-info/WHEEL"))
    assert wheel.name.endswith("-py3-none-any.whl") is not compiled
    assert ("Root-Is-Purelib: true" in about) is not compiled
    known = ("secbatch/models/native/attention.", "secbatch/row_digests.")
    libraries = [name for name in names if name.startswith(known) and not name.endswith((".c", ".pyi"))]
    assert len(libraries) == 2 * compiled and "secbatch/models/native/__init__.py" in names
