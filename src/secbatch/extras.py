"""Packages that extras of the installation bring: whether they are here, and what to do where they are not."""

from collections.abc import Sequence
from importlib.util import find_spec

from secbatch.errors import JobError, SecbatchError

_INSTALLED_AS = {"sklearn": "scikit-learn", "prometheus_client": "prometheus-client"}  # where names differ


def check_extra(what: str, modules: Sequence[str], extra: str, kind: type[SecbatchError] = JobError) -> None:
    """Raises `kind` where one of `modules` is missing, which `extra` brings; `what`: what needs them."""
    missing = [_INSTALLED_AS.get(module, module) for module in modules if find_spec(module) is None]
    if missing:
        *others, last = missing
        needed, it = (f"{', '.join(others)} and {last}", "them") if others else (last, "it")
        raise kind(f"{what} needs {needed}; install {it} with `pip install 'secbatch[{extra}]'`")
