"""What pyproject.toml cannot say yet but as an experiment: code that is compiled. All the rest is there."""

import os
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel

FOLDER = Path("src/secbatch/models/native")
SOURCES = ("module.c", "sequence_attention.c", "cache_attention.c", "sum_norm.c", "threads.c")
HEADERS = ("attention.h", "attention_parts.h", "threads.h", "vectors.h")
# One wheel for all versions of Python; those without a global lock have no such interface (PEP 703) and get their own.
LIMITED = not sysconfig.get_config_var("Py_GIL_DISABLED")


class Wheel(bdist_wheel):
    """Its tag says what it has: one without compiled code is for every system (py3-none-any)."""

    def run(self) -> None:
        if not self.skip_build:
            self.run_command("build_ext")
        if not any(map(os.path.exists, self.get_finalized_command("build_ext").get_outputs())):
            self.distribution.ext_modules, self.root_is_pure = [], True
        super().run()


def compiled(name: str, sources: tuple[str, ...], depends: tuple[str, ...] = ()) -> Extension:
    """Without a C compiler the package is installed without it."""
    return Extension(
        name,
        sources=list(sources),
        depends=list(depends),
        extra_compile_args=["-std=c11", "-O3", "-g0"],
        define_macros=[("Py_LIMITED_API", "0x030B0000")] if LIMITED else [],
        py_limited_api=LIMITED,
        optional=True,
    )


setup(
    ext_modules=[
        # Attention on processors with AVX-512, about twice as fast as torch's, and norms
        # (docs/performance/encoder.md). Without it, or for other processors, all goes torch's way.
        compiled(
            "secbatch.models.native.attention",
            tuple(str(FOLDER / name) for name in SOURCES),
            tuple(str(FOLDER / name) for name in HEADERS),
        ),
        # Digests of rows without Python's lock, which the thread that feeds a GPU wants (docs/performance/path.md).
        # Without it they are hashlib's, the same ones.
        compiled("secbatch.row_digests", ("src/secbatch/row_digests.c",)),
    ],
    cmdclass={"bdist_wheel": Wheel},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED else {},
)
