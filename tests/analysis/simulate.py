"""Counts drawn from a known truth, to see whether the analysis finds it again."""

from __future__ import annotations

import numpy as np

from ldru_study.analysis.counts import CellCurves, LengthCurve

N = 40
MULTIPLES = (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12.5, 25, 50, 100)


def truth(multiples, *, chance=0.5, lapse=0.0, half=None, beta=1.0):
    """Accuracy of a curve that is half way to chance at ``half``; None holds for ever."""
    m = np.asarray(multiples, dtype=float)
    s = np.ones_like(m) if half is None else np.exp2(-((m / half) ** beta))
    return chance + (1 - chance - lapse) * s


def draw(rng, accuracy, total, rho=0.0):
    if rho:
        spread = 1 / rho - 1
        accuracy = rng.beta(accuracy * spread + 1e-9, (1 - accuracy) * spread + 1e-9)
    return rng.binomial(total, np.clip(accuracy, 0, 1))


def curve(rng=None, *, seed=0, multiples=MULTIPLES, total=512, chance=0.5, rho=0.0, **shape):
    """Return a simulated seed; without ``rng`` the counts are exact, rounded."""
    multiples = np.asarray(multiples, dtype=float)
    accuracy = truth(multiples, chance=chance, **shape)
    num_total = np.full(len(multiples), total)
    correct = np.rint(accuracy * num_total) if rng is None else draw(rng, accuracy, num_total, rho)
    lengths = np.rint(multiples * N)
    return LengthCurve(seed, N, lengths, correct, num_total, np.full(len(multiples), chance))


def from_accuracies(accuracies, *, multiples=MULTIPLES, total=512, chance=0.5, seed=0):
    """Return a seed with these accuracies."""
    accuracies = np.asarray(accuracies, dtype=float)
    counts = np.full(len(accuracies), total)
    lengths = np.rint(np.asarray(multiples, dtype=float) * N)
    chances = np.broadcast_to(chance, len(accuracies)).astype(float)
    return LengthCurve(seed, N, lengths, np.rint(accuracies * counts), counts, chances)


def numbered(*curves):
    """Return these seeds, renumbered from 0."""
    return tuple(
        LengthCurve(n, c.train_max_length, c.lengths, c.num_correct, c.num_total, c.chance)
        for n, c in enumerate(curves)
    )


def cell(*curves, failed=None):
    """Return a cell of these seeds, renumbered."""
    curves = numbered(*curves)
    return CellCurves("parity_check", "model", "parity_check/model", curves, {}, failed or {})
