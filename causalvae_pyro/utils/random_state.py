"""The states of the random number generators: torch's on every device, NumPy's and Python's."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["kept_rng_state", "rng_state", "set_rng_state"]


@contextmanager
def kept_rng_state(device: str | torch.device = "cpu") -> Iterator[None]:
    """Puts back the state of all generators afterwards.

    Args:
        device: Where random numbers are used, beside the CPU.
    """
    device = torch.device(device)
    state = rng_state(device)
    try:
        yield
    finally:
        set_rng_state(state, device)


def rng_state(device: torch.device) -> dict[str, Any]:
    """The states of all random number generators that Pyro seeds, as tensors and plain values."""
    # NumPy's global generator: Pyro seeds it, and code of the user's may draw from it.
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_rng_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Takes up what :func:`rng_state` returned."""
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    elif device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])
