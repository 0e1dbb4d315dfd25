"""Cells drawn from a known truth: how sharply they fail, where, and how the seeds scatter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ldru_study.analysis.consensus import JointVerdict
from ldru_study.analysis.counts import LengthCurve
from ldru_study.analysis.curves import Anchor, Cells, log_likelihood

KINDS = ("sharp", "gradual", "holds")
OCTAVES = tuple(2.0**n for n in range(7))
DENSE = (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12.5, 16, 25, 35, 50, 75, 100)
DESIGN = (1, 1.5, 2, 3, 4, 6, 8, 12.5, 25, 50, 100)
RESOLUTION = 1_000_000


@dataclass(frozen=True)
class Variant:
    """A way to draw cells; what is not named differs from cell to cell."""

    grids: tuple[tuple[float, ...], ...] = (DENSE, tuple(np.geomspace(0.5, 64, 20)), DESIGN)
    scatter: tuple[float, float] = (0.02, 0.12)
    sharp_beta: tuple[float, float] = (7.0, 20.0)
    gradual_beta: tuple[float, float] = (1.0, 1.0)
    lapse: tuple[float, float] = (0.0, 0.03)
    rho: tuple[float, float] = (0.0, 0.08)
    form: str = "weibull"
    noise: str = "beta"
    strings: tuple[int, ...] = (64, 128, 256, 512)
    num_seeds: tuple[int, int] = (3, 10)


@dataclass(frozen=True, eq=False)
class Truth:
    """A drawn cell: its kind, the median half multiple of its population and of its seeds."""

    kind: str
    half: float | None
    seed_halves: tuple[float, ...]
    multiples: tuple[float, ...]
    num_correct: np.ndarray
    num_total: int
    chance: float
    about: dict[str, float] = field(default_factory=dict)

    @property
    def curves(self) -> tuple[LengthCurve, ...]:
        lengths = np.rint(np.asarray(self.multiples) * RESOLUTION).astype(int)
        k = len(lengths)
        return tuple(
            LengthCurve(
                s, RESOLUTION, lengths, row, np.full(k, self.num_total), np.full(k, self.chance)
            )
            for s, row in enumerate(self.num_correct)
        )


def survive(multiples, half, beta, form):
    """Return S, 1/2 at ``half`` in every form."""
    x = np.log(multiples) - np.log(half)
    if form == "weibull":
        return np.exp2(-np.exp(np.clip(beta * x, -700, 700)))
    # a logistic in the logarithm of the length, as steep at the half multiple as that Weibull
    return 1 / (1 + np.exp(np.clip(2 * np.log(2) * beta * x, -700, 700)))


def noisy(rng, p, n, rho, noise):
    """Return counts with overdispersion: beta-binomial, or a normal error of p or of its logit."""
    if noise == "beta" and rho > 1e-6:
        c = 1 / rho - 1
        p = rng.beta(p * c + 1e-9, (1 - p) * c + 1e-9)
    elif noise == "logit":
        q = np.clip(p, 1e-4, 1 - 1e-4)
        # the variance of p is about rho p (1 - p) in the middle
        p = 1 / (1 + (1 - q) / q * np.exp(rng.normal(0, 2 * np.sqrt(rho), p.shape)))
    elif noise == "normal":
        p = p + rng.normal(0, np.sqrt(rho * p * (1 - p)))
    return rng.binomial(n, np.clip(p, 0, 1))


def draw_cell(rng, variant: Variant, kind: str) -> Truth:
    """Draw one cell of a kind."""
    grid = np.array(variant.grids[rng.integers(len(variant.grids))])
    seeds = int(rng.integers(variant.num_seeds[0], variant.num_seeds[1] + 1))
    n = int(rng.choice(variant.strings))
    chance = float(rng.choice([1 / 2, 1 / 5, 1 / 17]))
    rho, lapse = rng.uniform(*variant.rho), rng.uniform(*variant.lapse)
    sigma = rng.uniform(*variant.scatter)
    half, halves = None, np.full(seeds, np.inf)
    s = np.ones((seeds, len(grid)))
    beta = 0.0
    if kind != "holds":
        # inside the grid, where several lengths lie on either side
        low, high = max(1.5, grid[1]), grid[-1] / 2.5
        half = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        beta = rng.uniform(*(variant.sharp_beta if kind == "sharp" else variant.gradual_beta))
        halves = half * np.exp(sigma * rng.normal(size=seeds))
        s = survive(grid, halves[:, None], beta, variant.form)
    p = chance + (1 - chance - lapse) * s
    k = noisy(rng, p, n, rho, variant.noise)
    return Truth(
        kind,
        half,
        tuple(halves),
        tuple(grid),
        k,
        n,
        chance,
        {"rho": rho, "lapse": lapse, "sigma": sigma, "beta": beta, "seeds": seeds},
    )


VARIANTS = {
    "usual": Variant(),
    "no scatter": Variant(scatter=(0.0, 0.0)),
    "scatter 0.1-0.3": Variant(scatter=(0.1, 0.3)),
    "scatter 0.3-0.5": Variant(scatter=(0.3, 0.5)),
    "multiples 1, 2, ..., 100": Variant(grids=(tuple(range(1, 101)),)),
    "multiples 1, 2, ..., 30": Variant(grids=(tuple(range(1, 31)),)),
    "octaves": Variant(grids=(OCTAVES,)),
    "design": Variant(grids=(DESIGN,)),
    "logistic": Variant(form="logistic"),
    "logit noise": Variant(noise="logit"),
    "normal noise": Variant(noise="normal"),
    "beta 1-2, 6-12": Variant(gradual_beta=(1.0, 2.0), sharp_beta=(6.0, 12.0)),
    "steps": Variant(sharp_beta=(40.0, 80.0)),
    "rho 0.06-0.08": Variant(rho=(0.06, 0.08)),
    "no overdispersion": Variant(rho=(0.0, 0.0)),
    "lapse 2-5 %": Variant(lapse=(0.02, 0.05)),
    "few": Variant(num_seeds=(3, 3), strings=(64,)),
}


def know_all_but_thresholds(truth: Truth) -> tuple[float, float]:
    """Estimate both medians of a cell that fails with all else about it known.

    No estimator that must find shape, lapse, overdispersion and scatter in the same counts can be
    expected to do better. Only where the form is the Weibull's and the noise that of the
    likelihood.

    Returns:
        The median half multiple of the population, the mean of its posterior, and of the seeds.
    """
    about, cells = truth.about, Cells.stack([[curve] for curve in truth.curves])
    x = np.log(truth.half) + np.linspace(-1.5, 1.5, 601)
    at = np.tile(
        [0, np.log(about["beta"]), np.sqrt(about["lapse"]), np.sqrt(max(about["rho"], 1e-6))],
        (len(x), len(truth.curves), 1),
    )
    at[..., 0] = x[:, None]
    log_height = log_likelihood(at, cells, Anchor(None, np.zeros(len(truth.curves))))
    height = np.exp(log_height - log_height.max(0))
    # a scatter below the steps of x is that of one step
    sigma = max(about["sigma"], x[1] - x[0])
    density = np.exp(-0.5 * ((x[:, None] - x) / sigma) ** 2)
    log_density = np.log(np.maximum(density @ height, 1e-300)).sum(1)
    middle = np.average(x, weights=np.exp(log_density - log_density.max()))
    own = height * np.exp(-0.5 * ((x - middle) / sigma) ** 2)[:, None]
    return float(np.exp(middle)), float(np.exp(np.median((own * x[:, None]).sum(0) / own.sum(0))))


def floor(truths: Sequence[Truth]) -> tuple[float, float]:
    """Return the median relative errors of `know_all_but_thresholds` over the cells that fail."""
    errors = []
    for truth in truths:
        if truth.half is not None:
            targets = np.array([truth.half, np.median(truth.seed_halves)])
            errors.append(np.abs(np.array(know_all_but_thresholds(truth)) / targets - 1))
    population, seeds = np.median(errors, axis=0)
    return float(population), float(seeds)


@dataclass(frozen=True)
class Score:
    """How well the truths of many cells were found again.

    ``error`` and ``covered`` are about the median of the population that the seeds are drawn
    from, ``error_of_seeds`` and ``covered_of_seeds`` about the median of the seeds drawn. A value
    that is not given has no error; an interval that is not given covers nothing. ``width`` is the
    median of ln(upper / lower) over the intervals with two ends.
    """

    num_cells: int
    error: float
    error_of_seeds: float
    covered: float
    covered_of_seeds: float
    width: float
    right: float
    false_numbers: int
    without_value: int


def score(truths: Sequence[Truth], verdicts: Sequence[JointVerdict]) -> Score:
    """Compare verdicts with the truths that they are about."""
    errors, covered, widths = [], [], []
    missing = 0
    for truth, verdict in zip(truths, verdicts, strict=True):
        if truth.half is None:
            continue
        half, targets = verdict.half_multiple, np.array([truth.half, np.median(truth.seed_halves)])
        if half.value is None:
            missing += 1
        else:
            errors.append(np.abs(half.value / targets - 1))
        known = half.lower is not None and verdict.kind not in ("holds", "never_learned")
        if half.lower is not None and half.upper is not None:
            widths.append(np.log(half.upper / half.lower))
        upper = np.inf if half.upper is None else half.upper
        covered.append((half.lower <= targets) & (targets <= upper) if known else [False, False])
    held = [v for t, v in zip(truths, verdicts, strict=True) if t.half is None]
    median, mean = np.median(errors, axis=0), np.mean(covered, axis=0)
    return Score(
        num_cells=len(truths),
        error=float(median[0]),
        error_of_seeds=float(median[1]),
        covered=float(mean[0]),
        covered_of_seeds=float(mean[1]),
        width=float(np.median(widths)),
        right=float(np.mean([t.kind == v.kind for t, v in zip(truths, verdicts, strict=True)])),
        false_numbers=sum(v.half_multiple.value is not None for v in held),
        without_value=missing,
    )
