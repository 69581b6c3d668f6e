"""How strongly concepts depend on labels: the maximal and the total information coefficient.

A grid of ``columns x rows`` cells on the scatter plot of two variables turns them into two discrete ones. For every shape of
grid with ``columns * rows <= B = max(N^alpha, 4)``, the characteristic matrix ``M`` holds the largest mutual information that
a grid of this shape reaches, divided by ``log min(columns, rows)``. MIC is the largest entry of ``M``, the normalised TIC
the mean entry. As ``N`` grows, both tend to 0 for independent variables; MIC tends to 1 for noiseless functions, TIC for
monotone ones.

The search is ApproxMaxMI of Reshef et al., *Detecting novel associations in large data sets*, Science 334 (2011), supplement:
one axis is cut into rows of about equal size, and dynamic programming finds the best columns among the boundaries of at most
``c`` times as many clumps of points. This is done for either axis, and the larger of the two values counts. ``mic_e`` and
``tic_e`` follow Reshef et al., *Measuring dependence powerfully and equitably*, JMLR 17 (2016): they cut only the axis with
the more cells into rows of about equal size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from causalvae_pyro.metrics.characteristic import characteristic_matrices

__all__ = ["MicTic", "MicTicMatrix", "mic", "mic_e", "mic_matrix", "mic_tic", "tic", "tic_e"]


class MicTic(NamedTuple):
    """MIC and normalised TIC, each in [0, 1]."""

    mic: float
    tic: float


class MicTicMatrix(NamedTuple):
    """MIC and normalised TIC of every concept with every label, each ``[k, n]`` in [0, 1]."""

    mic: NDArray[np.float64]
    tic: NDArray[np.float64]


def mic(x: Tensor | ArrayLike, y: Tensor | ArrayLike, *, alpha: float = 0.6, c: int = 15) -> float:
    """Maximal information coefficient (Reshef et al. 2011).

    Symmetric, and a function of the ranks alone, so that a strictly increasing map of either variable changes nothing. A
    strictly decreasing one may change it slightly, because rows are filled from the lowest value upwards.

    Args:
        x: ``[N]``, any real numbers; ties are allowed. A constant tells nothing: its coefficient is 0.
        y: ``[N]``, likewise.
        alpha: In (0, 1]; the grids have at most ``max(N^alpha, 4)`` cells.
        c: At least 1; the columns of a grid are chosen among the boundaries of at most ``c`` times as many clumps of points.

    Returns:
        In [0, 1]; higher is more dependent. Independent variables reach about 0.12 at ``N = 1461``, more at smaller ``N``.

    Raises:
        ValueError: If a variable is not 1-D or has fewer than 8 samples, NaN or infinite values, if the lengths differ, or
            if ``alpha`` or ``c`` is out of its range.

    Example:
        >>> x = torch.linspace(-1, 1, 200)
        >>> round(mic(x, x**2), 6), mic(x, torch.ones(200))
        (1.0, 0.0)
    """
    return _pair(x, y, alpha, c, False).mic


def tic(x: Tensor | ArrayLike, y: Tensor | ArrayLike, *, alpha: float = 0.6, c: int = 15) -> float:
    """Normalised total information coefficient: the mean of the characteristic matrix of which MIC is the maximum.

    Arguments, errors and invariances are those of :func:`mic`.

    Its ceiling is below 1 for labels with few classes: rows beyond their number add no information, but ``log min(x, y)``, by
    which a grid's is divided, still grows. Two classes of equal size reach 0.69 with themselves at ``N = 1461``, and less at
    larger ``N``, where there are more fine grids.

    Returns:
        In [0, 1]; higher is more dependent. Independent variables reach about 0.04 at ``N = 1461``.

    Example:
        >>> x = torch.linspace(-1, 1, 200)
        >>> round(tic(x, x), 3), round(tic(x, x**2), 3)
        (1.0, 0.689)
    """
    return _pair(x, y, alpha, c, False).tic


def mic_e(x: Tensor | ArrayLike, y: Tensor | ArrayLike, *, alpha: float = 0.6, c: int = 15) -> float:
    """The estimator MIC_e, the maximum of the equicharacteristic matrix (Reshef et al. 2016).

    Only the axis with the more cells is cut into rows of about equal size, and the other one optimised. In square grids it is
    the x-axis that is cut, as the paper defines it, so that swapping ``x`` and ``y`` may change the value slightly. Arguments,
    errors and invariances are otherwise those of :func:`mic`. It is faster: fewer and smaller searches.

    Returns:
        In [0, 1]; higher is more dependent.

    Example:
        >>> x = torch.linspace(-1, 1, 200)
        >>> round(mic_e(x, x**2), 6)
        1.0
    """
    return _pair(x, y, alpha, c, True).mic


def tic_e(x: Tensor | ArrayLike, y: Tensor | ArrayLike, *, alpha: float = 0.6, c: int = 15) -> float:
    """Normalised TIC_e: the mean of the equicharacteristic matrix (Reshef et al. 2016, where it is the sum).

    Made for tests of independence. Arguments, errors and invariances are those of :func:`mic_e`.

    Returns:
        In [0, 1]; higher is more dependent.

    Example:
        >>> x = torch.linspace(-1, 1, 200)
        >>> round(tic_e(x, x), 3), round(tic_e(x, x**2), 3)
        (0.982, 0.648)
    """
    return _pair(x, y, alpha, c, True).tic


def mic_matrix(
    z: Tensor | ArrayLike, u: Tensor | ArrayLike, *, alpha: float = 0.6, c: int = 15, equicharacteristic: bool = False
) -> MicTicMatrix:
    """MIC and normalised TIC of every concept with every label.

    Faster than its entries one by one: 16 pairs of 1,461 samples take about 0.3 s on one core. The time grows about as
    ``k n N^1.5`` (``benchmarks/metrics.py``).

    Args:
        z: Concepts ``[N, k]``, or ``[N, k, d]`` of which the mean over the ``d`` dimensions is taken. To score a model, the
            means of the posterior.
        u: Labels ``[N, n]``.
        alpha: As in :func:`mic`.
        c: As in :func:`mic`.
        equicharacteristic: Return MIC_e and TIC_e instead; see :func:`mic_e`.

    Returns:
        ``mic`` and ``tic``, each ``[k, n]`` in [0, 1]: entry ``[i, j]`` for concept ``i`` and label ``j``.

    Raises:
        ValueError: As :func:`mic`, and if the number of dimensions is another.

    Example:
        >>> u = torch.rand(500, 2, generator=torch.Generator().manual_seed(0))
        >>> scores = mic_matrix(u.flip(1), u)
        >>> scores.mic.shape, scores.mic.argmax(1).tolist(), scores.mic[0, 1].round(6).item()
        ((2, 2), [1, 0], 1.0)
    """
    concepts, labels = _concepts_and_labels(z, u)
    pairs = [(i, j) for i in range(concepts.shape[1]) for j in range(labels.shape[1])]
    matrix = characteristic_matrices(concepts, labels, pairs, alpha, c, equicharacteristic)
    shape = concepts.shape[1], labels.shape[1]
    return MicTicMatrix(matrix.max(0).reshape(shape), matrix.mean(0).reshape(shape))


def mic_tic(
    z: Tensor | ArrayLike, u: Tensor | ArrayLike, *, alpha: float = 0.6, c: int = 15, equicharacteristic: bool = False
) -> MicTic:
    """One MIC and one TIC for a model: each concept against its own label, then the mean over the concepts.

    Concept ``i`` is read from the posterior's mean of ``z_i``, averaged over its ``d`` dimensions, and compared with
    ``u_i`` alone: the mean of the diagonal of :func:`mic_matrix`, for which the rest of the matrix is not computed. For labels
    with few classes TIC's ceiling is below 1, because rows beyond their number add no information to a grid while the
    logarithm that it is divided by grows; see :func:`tic`, and score ``mic_tic(u, u)`` for it.

    Args:
        z: Means of the posterior ``[N, n, d]``, or ``[N, n]`` if already averaged.
        u: Labels ``[N, n]``.
        alpha: As in :func:`mic`.
        c: As in :func:`mic`.
        equicharacteristic: Return MIC_e and TIC_e instead; see :func:`mic_e`.

    Returns:
        ``mic`` and ``tic`` in [0, 1]; 1 is best.

    Raises:
        ValueError: As :func:`mic_matrix`, and if there are not as many concepts as labels.

    Example:
        >>> u = torch.rand(500, 4, generator=torch.Generator().manual_seed(0))
        >>> z = u[..., None].expand(-1, -1, 3)
        >>> round(mic_tic(z, u).mic, 6)
        1.0
    """
    concepts, labels = _concepts_and_labels(z, u)
    if concepts.shape[1] != labels.shape[1]:
        raise ValueError(f"z: got {concepts.shape[1]} concepts for {labels.shape[1]} labels; expected one for each")
    pairs = [(i, i) for i in range(labels.shape[1])]
    matrix = characteristic_matrices(concepts, labels, pairs, alpha, c, equicharacteristic)
    return MicTic(float(matrix.max(0).mean()), float(matrix.mean()))


def _pair(x: Tensor | ArrayLike, y: Tensor | ArrayLike, alpha: float, c: int, equicharacteristic: bool) -> MicTic:
    first, second = _array("x", x, (1,)), _array("y", y, (1,))
    if len(first) != len(second):
        raise ValueError(f"y: got {len(second)} samples for {len(first)} of x; expected as many")
    matrix = characteristic_matrices(first[:, None], second[:, None], [(0, 0)], alpha, c, equicharacteristic)
    return MicTic(float(matrix.max()), float(matrix.mean()))


def _concepts_and_labels(z: Tensor | ArrayLike, u: Tensor | ArrayLike) -> tuple[NDArray, NDArray]:
    concepts, labels = _array("z", z, (2, 3)), _array("u", u, (2,))
    if len(concepts) != len(labels):
        raise ValueError(f"u: got {len(labels)} samples for {len(concepts)} of z; expected as many")
    return concepts.mean(2) if concepts.ndim == 3 else concepts, labels


def _array(name: str, value: Tensor | ArrayLike, dims: Sequence[int]) -> NDArray:
    """Checks an argument and returns it in float64."""
    if isinstance(value, Tensor):
        # numpy has no bfloat16.
        value = (value.double() if value.is_floating_point() else value).detach().cpu().numpy()
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name}: got values of type {array.dtype}; expected real numbers")
    if array.ndim not in dims:
        raise ValueError(f"{name}: got shape {list(array.shape)}; expected {' or '.join(f'{d}-D' for d in dims)}")
    if len(array) < 8:
        raise ValueError(f"{name}: got {len(array)} samples; expected at least 8")
    if array.size == 0:
        raise ValueError(f"{name}: got shape {list(array.shape)}; expected no empty dimension")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: got {np.sum(~np.isfinite(array))} NaN or infinite values; expected finite numbers")
    return array
