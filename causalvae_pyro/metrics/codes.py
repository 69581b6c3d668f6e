"""Codes and factors as the scores of disentanglement take them."""

from __future__ import annotations

import numpy as np
from torch import Tensor

__all__ = ["check_codes", "standardised"]


def check_codes(z: Tensor | np.ndarray, u: Tensor | np.ndarray, *, latents: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Checks codes and factors and returns them as float64 ``[N, k]`` and ``[N, n]``."""
    codes, factors = _array(z), _array(u)
    if codes.ndim not in (2, 3) or 0 in codes.shape[1:]:
        raise ValueError(f"z: expected [N, k] or [N, k, d], got shape {codes.shape}")
    if factors.ndim != 2 or not factors.shape[1]:
        raise ValueError(f"u: expected [N, n], got shape {factors.shape}")
    if len(codes) != len(factors):
        raise ValueError(f"z: got {len(codes)} samples beside u's {len(factors)}; they must be the same samples")
    if len(codes) < 8:
        raise ValueError(f"z: got {len(codes)} samples; at least 8 are needed")
    for name, values in (("z", codes), ("u", factors)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name}: got NaN or infinite values; all must be finite")
    if codes.shape[1] < latents:
        raise ValueError(f"z: got {codes.shape[1]} latent; the gap to the second best needs at least {latents}")
    constant = np.flatnonzero(np.ptp(factors, axis=0) == 0)
    if constant.size:
        raise ValueError(f"u: columns {constant.tolist()} are constant; every factor must vary")
    return codes.mean(2) if codes.ndim == 3 else codes, factors


def _array(values: Tensor | np.ndarray) -> np.ndarray:
    return values.detach().double().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values, dtype=np.float64)


def standardised(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and variance 1 over the given rows; those that are constant there only lose their mean."""
    scale = np.where(np.ptp(values[rows], axis=0) > 0, values[rows].std(0), 1.0)
    return (values - values[rows].mean(0)) / scale
