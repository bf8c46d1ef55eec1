"""Runs with tiny models."""

from torch_threads import one_thread  # noqa: F401
