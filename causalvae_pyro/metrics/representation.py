"""Every score of a representation at once, for the codes of any encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from causalvae_pyro.metrics.dci import dci
from causalvae_pyro.metrics.disentanglement import irs, mcc, mig, sap
from causalvae_pyro.metrics.information import mic_matrix, mic_tic

__all__ = ["representation_scores"]

# A label with so many classes or fewer may have a MIC or TIC below 1 with itself.
_FEW = 10


def representation_scores(
    z: Tensor | np.ndarray, u: Tensor | np.ndarray, names: Sequence[str] | None = None, *, seed: int = 0
) -> dict[str, Any]:
    """MIC, TIC, MCC, DCI, MIG, SAP and IRS of codes against labels.

    MIC and TIC compare concept ``i`` with its own label ``i``, for each concept the mean of its posterior means over its ``d``
    dimensions; the other scores are free to match latents to labels as they like.

    Args:
        z: Means of the posterior ``[N, n]`` or ``[N, n, d]``, one concept per label, ``N >= 8``.
        u: Labels ``[N, n]``, none constant.
        names: Of the concepts; ``"0", "1", ...`` by default.
        seed: See :func:`~causalvae_pyro.metrics.dci`.

    Returns:
        A JSON-able mapping, all but DCI's informativeness in [0, 1], 1 best:

        - ``mic``, ``tic``: per concept, and ``mic_mean``, ``tic_mean``, the numbers of the CausalVAE paper's table (there in
          percent).
        - ``mic_matrix``, ``tic_matrix``: every concept (row) with every label (column).
        - ``mcc``; ``dci`` with ``disentanglement``, ``completeness``, ``informativeness``; with at least two concepts ``mig``
          and ``sap``; ``irs``.
        - ``of_the_labels``: ``mcc``, ``mig``, ``sap``, ``irs`` and ``dci`` of the labels themselves, what a perfect encoder
          would get. It is less than 1 where labels depend on one another. Where a label has few classes also ``mic_mean`` and
          ``tic_mean``.

    Raises:
        ValueError: If ``z`` or ``u`` is not as stated, or there are not as many names as labels.
    """
    if u.ndim != 2:
        raise ValueError(f"u: expected [N, n], got shape {list(u.shape)}")
    codes = z.mean(-1) if z.ndim == 3 else z
    if codes.shape != u.shape:
        raise ValueError(f"z: expected one concept per label, [{', '.join(map(str, u.shape))}], got {list(z.shape)}")
    names = [str(i) for i in range(u.shape[1])] if names is None else list(names)
    if len(names) != u.shape[1]:
        raise ValueError(f"names: got {names} for {u.shape[1]} labels")
    matrix = mic_matrix(codes, u)
    own = {key: values.diagonal().tolist() for key, values in (("mic", matrix.mic), ("tic", matrix.tic))}
    result: dict[str, Any] = {key: dict(zip(names, values, strict=True)) for key, values in own.items()}
    result |= {f"{key}_mean": sum(values) / len(values) for key, values in own.items()}
    result |= {"mic_matrix": matrix.mic.tolist(), "tic_matrix": matrix.tic.tolist()}
    limit = _free(u, u, seed)
    if any(len(np.unique(column)) <= _FEW for column in np.asarray(u).T):
        found = mic_tic(u, u)
        limit |= {"mic_mean": found.mic, "tic_mean": found.tic}
    return result | _free(codes, u, seed) | {"of_the_labels": limit}


def _free(codes: Tensor | np.ndarray, u: Tensor | np.ndarray, seed: int) -> dict[str, Any]:
    importances = dci(codes, u, seed=seed)
    scores: dict[str, Any] = {"mcc": mcc(codes, u)}
    scores["dci"] = {
        "disentanglement": importances.disentanglement,
        "completeness": importances.completeness,
        "informativeness": importances.informativeness,
    }
    if u.shape[1] > 1:
        scores |= {"mig": mig(codes, u), "sap": sap(codes, u)}
    return scores | {"irs": irs(codes, u)}
