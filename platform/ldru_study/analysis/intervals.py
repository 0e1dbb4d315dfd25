"""Exact and approximate intervals for a share: Wilson for plots, Clopper-Pearson for claims."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv, ndtri

from ldru_study.analysis.counts import Floats


def wilson(
    num_correct: ArrayLike, num_total: ArrayLike, confidence: float = 0.95
) -> tuple[Floats, Floats]:
    """Return the two-sided Wilson score interval of each share: lower and upper bounds, [K].

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    k, n = np.asarray(num_correct, float), np.asarray(num_total, float)
    z = ndtri(0.5 + confidence / 2)
    centre = (k + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * np.sqrt(k * (n - k) / n + z**2 / 4)
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)


def exact_bounds(
    num_correct: ArrayLike, num_total: ArrayLike, confidence: float = 0.95
) -> tuple[Floats, Floats]:
    """Return one-sided Clopper-Pearson bounds, each of which holds with ``confidence``.

    Together they are a two-sided interval of ``2 * confidence - 1``. With no error in n the lower
    bound is (1 - confidence)^(1/n), with no success the upper bound is 1 minus that.

    Source: Clopper and Pearson 1934, "The use of confidence or fiducial limits".
    """
    k, n = np.broadcast_arrays(np.asarray(num_correct, float), np.asarray(num_total, float))
    # at the ends the beta distribution has a zero parameter; the bound is 0 or 1 itself
    lower = np.where(k > 0, betaincinv(np.maximum(k, 0.5), n - k + 1, 1 - confidence), 0.0)
    upper = np.where(k < n, betaincinv(k + 1, np.maximum(n - k, 0.5), confidence), 1.0)
    return lower, upper


def zero_error_bound(num_total: float, confidence: float = 0.95) -> float:
    """Return what the error rate lies below, given none in ``num_total``: 0.58 % at 512.

    Raises:
        ValueError: ``num_total`` is below 1.

    Source: 1 - (1 - confidence)^(1/n), the one-sided Clopper-Pearson bound at k = 0.
    """
    if num_total < 1:
        raise ValueError(f"num_total is {num_total}, it must be >= 1")
    return float(-np.expm1(np.log1p(-confidence) / num_total))


def strings_needed(error: float, confidence: float = 0.95) -> int:
    """Return how many faultless strings show that the error is below ``error``: 2 995 at 0.001.

    Raises:
        ValueError: ``error`` is not inside (0, 1).
    """
    if not 0 < error < 1:
        raise ValueError(f"error is {error}, it must lie inside (0, 1)")
    return int(np.ceil(np.log1p(-confidence) / np.log1p(-error)))
