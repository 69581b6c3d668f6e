"""Confidence intervals: over a test set's images, by the bootstrap or by subsampling, and over seeds, by Student's t."""

from __future__ import annotations

import inspect
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypedDict

import numpy as np
from torch import Tensor
from typing_extensions import NotRequired

from causalvae_pyro.utils.student_t import half_width

__all__ = ["BootstrapInterval", "SeedsInterval", "bootstrap_interval", "seeds_interval", "subsampling_interval"]

#: Numbers gathered at a time for a statistic that is computed on many resamples at once.
_BATCH = 2**22


class BootstrapInterval(TypedDict):
    """What :func:`bootstrap_interval` and :func:`subsampling_interval` return."""

    #: The statistic of all images.
    value: float
    #: Its standard deviation over the resamples, or as the subsamples tell it.
    standard_error: float
    #: Lower and upper end.
    interval: list[float]


class SeedsInterval(TypedDict):
    """What :func:`seeds_interval` returns; of a single value only ``mean`` and ``values``."""

    mean: float
    standard_error: NotRequired[float]
    #: Lower and upper end.
    interval: NotRequired[list[float]]
    values: list[float]


def bootstrap_interval(
    arrays: Tensor | np.ndarray | Sequence[Tensor | np.ndarray],
    statistic: Callable[..., Any],
    *,
    level: float = 0.95,
    resamples: int = 1000,
    method: str = "bca",
    seed: int = 0,
) -> BootstrapInterval:
    """Confidence interval of a statistic over test images, which are drawn with replacement.

    It tells how much the number would change with other images of the same kind, not with another training run: for that see
    :func:`seeds_interval`. If an image was scored several times (several intervention values, say), average first or give the
    scores as one row: rows are what is drawn.

    The ends are bias-corrected and accelerated (BCa) because the statistics here are ratios of errors with a few large
    values, whose distribution is skewed and, for a bounded score, off centre; plain percentiles miss by ``O(1 / sqrt(N))`` per
    end there, BCa by ``O(1 / N)``. It costs ``N`` more evaluations of the statistic.

    With the same seed the resamples and the ends are those of :func:`scipy.stats.bootstrap`, up to rounding, where that has ends.
    It is not called because it returns NaN where the value lies beyond all resamples or no single image moves the statistic,
    draws no rows of more than one number, and loads ``scipy.stats``.

    Args:
        arrays: One array, or several that are paired, each ``[N, ...]`` with one row per image, ``N >= 2``.
        statistic: Takes the arrays, in float64 numpy, and returns a number. If it has a parameter ``axis`` and every array is
            ``[N]``, it is called with ``[resamples, N]`` arrays and ``axis=-1`` and returns ``[resamples]`` numbers, which is
            much faster. Examples: ``np.mean``; ``lambda a, b, axis: 1 - a.sum(axis) / b.sum(axis)`` for the CF-score of errors
            ``a`` and baselines ``b``; ``mcc`` for codes ``[N, k]`` and factors ``[N, n]``.
        level: Confidence level.
        resamples: Number of resamples, at least 100; more for a level above 0.95.
        method: ``"bca"`` or ``"percentile"``.
        seed: Of the resamples. The same images are drawn for every statistic and array of the same ``N``, so that two models
            meet the same ones.

    Returns:
        See :class:`BootstrapInterval`. If all resamples agree, the interval is that single value. If the value lies beyond all
        resamples, as a number of distinct rows does, BCa's ends lie among the outermost resamples on that side.

    Raises:
        ValueError: If an argument is not as stated, or the statistic is not finite on all images, on a resample, or on all images
            but one.

    Source: Efron 1987; Efron & Tibshirani 1993, chapter 14.

    Example:
        >>> result = bootstrap_interval(torch.arange(100.0), np.mean)
        >>> result["value"], result["interval"][0] < 49.5 < result["interval"][1]
        (49.5, True)
    """
    rows = _paired(arrays)
    _check_level(level)
    if not isinstance(resamples, int) or resamples < 100:
        raise ValueError(f"resamples: got {resamples!r}; valid: whole numbers from 100")
    if method not in ("bca", "percentile"):
        raise ValueError(f"method: got {method!r}; valid: 'bca', 'percentile'")

    count = len(rows[0])
    at_once = _takes_axis(statistic) and all(array.ndim == 1 for array in rows)
    rng = np.random.default_rng(seed)

    def evaluate(index: np.ndarray) -> np.ndarray:
        if at_once:
            return _numbers(statistic(*(array[index] for array in rows), axis=-1), len(index))
        return _numbers([statistic(*(array[row] for array in rows)) for row in index], len(index))

    everything = np.arange(count)
    value = float(evaluate(everything[None])[0])
    batch = max(1, _BATCH // count)
    drawn = np.concatenate([evaluate(rng.integers(count, size=(size, count))) for size in _split(resamples, batch)])
    error = float(drawn.std(ddof=1))
    if np.ptp(drawn) == 0:
        return {"value": value, "standard_error": 0.0, "interval": [float(drawn[0])] * 2}
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if method == "bca":
        jackknife = [evaluate(_without(everything[start : start + batch], count)) for start in range(0, count, batch)]
        tails = _bca(tails, value, drawn, np.concatenate(jackknife))
    return {"value": value, "standard_error": error, "interval": np.quantile(drawn, tails).tolist()}


def subsampling_interval(
    arrays: Tensor | np.ndarray | Sequence[Tensor | np.ndarray],
    statistic: Callable[..., Any],
    *,
    level: float = 0.95,
    subsamples: int = 30,
    share: float = 0.5,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    seed: int = 0,
) -> BootstrapInterval:
    """Confidence interval of a statistic that repeated rows would mislead, from test images drawn without replacement.

    For scores that estimate dependence, as MIC, TIC and MIG: to them the copies of a row in a bootstrap's resample are
    information. The statistic of ``b`` of the ``N`` images varies more than that of all of them, by ``sqrt(N / b)`` where its
    spread falls with the root of the sample size, and less between subsamples of the same images, by ``sqrt(1 - b / N)``.
    Corrected for both, its standard deviation is the delete-d jackknife's standard error, and the interval Student's around the
    value of all images. The mean over the subsamples is not used: fewer images move such scores up or down. For how well this
    holds see ``docs/metrics.md``.

    Args:
        arrays: One array, or several that are paired, each ``[N, ...]`` with one row per image.
        statistic: Takes the arrays, in float64 numpy, and returns a number. Its expectation at ``N`` images is what the interval
            is for, bias included.
        level: Confidence level.
        subsamples: Number of subsamples, at least 10.
        share: Of the images in each, ``b / N``, between 0 and 1; at least one is taken and one left out.
        bounds: Of the statistic; an end beyond is moved there.
        seed: Of the subsamples. The same images are drawn for every statistic and array of the same ``N``.

    Returns:
        See :class:`BootstrapInterval`.

    Raises:
        ValueError: If an argument is not as stated, the statistic is not finite on all images or a subsample, or it is the same
            on all subsamples, as MIC is where all are 1: they then tell nothing of its spread.

    Source: Shao & Wu 1989; Politis & Romano 1994.

    Example:
        >>> result = subsampling_interval(torch.arange(100.0), np.mean, subsamples=200)
        >>> result["value"], 2.5 < result["standard_error"] < 3.3  # The closed form is 2.9.
        (49.5, True)
    """
    rows = _paired(arrays)
    _check_level(level)
    if not isinstance(subsamples, int) or subsamples < 10:
        raise ValueError(f"subsamples: got {subsamples!r}; valid: whole numbers from 10")
    if not 0 < share < 1:
        raise ValueError(f"share: got {share}; valid: between 0 and 1")
    count = len(rows[0])
    kept = min(max(1, round(share * count)), count - 1)
    rng = np.random.default_rng(seed)
    index = (rng.choice(count, kept, replace=False) for _ in range(subsamples))
    value = float(_numbers([statistic(*rows)], 1)[0])
    drawn = _numbers([statistic(*(array[part] for array in rows)) for part in index], subsamples)
    if np.ptp(drawn) <= 1e-9 * np.abs(drawn).max():
        raise ValueError(f"statistic: {drawn[0]:.6g} on all {subsamples} subsamples; they tell nothing of its spread")
    error = float(drawn.std(ddof=1)) * math.sqrt(kept / (count - kept))
    half = half_width(error, subsamples, level)
    return {"value": value, "standard_error": error, "interval": np.clip([value - half, value + half], *bounds).tolist()}


def seeds_interval(values: Iterable[float], level: float = 0.95) -> SeedsInterval:
    """Mean, standard error and Student-t interval of a score over independent seeds.

    Args:
        values: One finite number per seed.
        level: Confidence level.

    Returns:
        ``{"mean", "standard_error", "interval": [low, high], "values"}``, the values as given. A single value has no spread: the
        result then holds ``mean`` and ``values`` only.

    Raises:
        ValueError: If there is no value, one is not finite, or ``level`` is not between 0 and 1.

    Example:
        >>> [round(end, 3) for end in seeds_interval([1.0, 2.0, 3.0])["interval"]]
        [-0.484, 4.484]
    """
    numbers = [float(value) for value in values]
    _check_level(level)
    if not numbers:
        raise ValueError("values: got none; give one per seed")
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"values: got {numbers}; all must be finite")
    n, mean = len(numbers), statistics.fmean(numbers)
    if n == 1:
        return {"mean": mean, "values": numbers}
    error = statistics.stdev(numbers) / math.sqrt(n)
    half = half_width(error, n, level)
    return {"mean": mean, "standard_error": error, "interval": [mean - half, mean + half], "values": numbers}


def _bca(tails: np.ndarray, value: float, drawn: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    """The tail probabilities at which to read the resamples' quantiles."""
    from scipy.special import ndtr, ndtri  # slow to import

    below = ((drawn < value).mean() + (drawn <= value).mean()) / 2
    # Beyond all resamples the correction would be infinite and the ends undefined.
    shift = ndtri(np.clip(below, 0.5 / len(drawn), 1 - 0.5 / len(drawn)))
    influence = left_out.mean() - left_out
    power = np.square(influence).sum()
    # A statistic of ranks may not move when any one image goes.
    acceleration = np.power(influence, 3).sum() / (6 * power**1.5) if power > 0 else 0.0
    position = shift + ndtri(tails)
    # Past its pole the formula would turn round; up to there it tends to the outermost resample.
    return ndtr(shift + position / np.maximum(1 - acceleration * position, 1e-9))


def _paired(arrays: Tensor | np.ndarray | Sequence[Tensor | np.ndarray]) -> list[np.ndarray]:
    rows = [_rows(array) for array in (arrays if isinstance(arrays, Sequence) else [arrays])]
    if len({len(array) for array in rows}) != 1 or len(rows[0]) < 2:
        raise ValueError(f"arrays: got {[len(array) for array in rows]} images; all need the same number, at least 2")
    return rows


def _rows(array: Tensor | np.ndarray) -> np.ndarray:
    result = array.detach().double().cpu().numpy() if isinstance(array, Tensor) else np.asarray(array, dtype=np.float64)
    if result.ndim == 0:
        raise ValueError("arrays: got a single number; each needs one row per image")
    if not np.isfinite(result).all():
        raise ValueError("arrays: got NaN or infinite values; all must be finite")
    return result


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level: got {level}; valid: between 0 and 1")


def _takes_axis(statistic: Callable[..., Any]) -> bool:
    try:
        return "axis" in inspect.signature(statistic).parameters
    except ValueError:  # Some built-in functions have no signature.
        return False


def _split(total: int, size: int) -> list[int]:
    """Parts of ``total``, each ``size`` but the last."""
    return [min(size, total - start) for start in range(0, total, size)]


def _without(part: np.ndarray, count: int) -> np.ndarray:
    """``[len(part), count - 1]``: row by row, every index but one of ``part``."""
    index = np.arange(count - 1)
    return index + (index >= part[:, None])


def _numbers(result: Any, count: int) -> np.ndarray:
    numbers = np.asarray(result, dtype=np.float64)
    if numbers.shape != (count,):
        raise ValueError(f"statistic: expected one number per resample, got shape {numbers.shape} for {count}")
    if not np.isfinite(numbers).all():
        raise ValueError(f"statistic: not finite on {int((~np.isfinite(numbers)).sum())} of {count} resamples or subsets")
    return numbers
