"""Torch with a number of threads, and the same on every run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Torch with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def reproducible(seed: int, threads: int) -> Iterator[None]:
    """Torch with a seed and deterministic algorithms; the process's own random state is kept."""
    # Typed as a plain module, its switch is unknown to the stubs.
    deterministic: Any = torch.utils.deterministic
    # cuBLAS is deterministic only with a workspace of fixed size, and reads this when it is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), deterministic.fill_uninitialized_memory
    with torch.random.fork_rng(), torch_threads(threads):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True)
        # Filling new memory before it is overwritten would only cost time.
        deterministic.fill_uninitialized_memory = False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0])
            deterministic.fill_uninitialized_memory = before[1]
