"""Every shape that may explain a cell, fitted to all of its seeds, with how well it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ldru_study.analysis.counts import Floats, LengthCurve
from ldru_study.analysis.curves import BETA, FAMILIES, LAPSE, Cells, Family, Form, survival
from ldru_study.analysis.failure import log_span, sharpness
from ldru_study.analysis.fits import optimise
from ldru_study.analysis.joint import (
    LAPSE_MEAN,
    JointFits,
    fit_jointly,
    refit_as,
    refit_with,
    stack_seeds,
)
from ldru_study.analysis.steps import Step, fit_steps
from ldru_study.analysis.thresholds import Thresholds, profile_medians
from ldru_study.analysis.verdict import CLOSE, Kind, VerdictSettings

# M0: lapse, rho; M1: also median and scatter of the half multiples; M2: also beta
_NUM_PARAMETERS: dict[Family, int] = {"holds": 2, "gradual": 4, "weibull": 5}
# steeper candidates than this differ from it on no grid of lengths
_STEEPEST = 60.0
_CELLS_AT_ONCE = 100


@dataclass(frozen=True, eq=False)
class CellFit:
    """A cell, and how well each family can explain it at best.

    Args:
        curves: its seeds, on informative lengths.
        bic: of each family; no more than it, where the cell surely holds.
    """

    curves: tuple[LengthCurve, ...]
    bic: Mapping[Family, float]

    @property
    def last(self) -> float:
        """The longest multiple."""
        return max(float(curve.multiples[-1]) for curve in self.curves)

    def spare(self, family: Family) -> int:
        """Return the counts less the parameters of a family."""
        return sum(len(curve.lengths) for curve in self.curves) - _NUM_PARAMETERS[family]


@dataclass(frozen=True, eq=False)
class FailingFit(CellFit):
    """The fits of a cell that may fail.

    Args:
        logistic_bic: of the logistic form, which has a say in the numbers and none in the kind.
        members: numbers of the candidates of each failing family and of the logistic form.
        best: number of the best candidate of each.
        parameters: of each candidate and seed, [J, S, 4]; the last candidate is M1.
        mu: the median half multiples that were tried, as natural logarithms, [Q].
        values: log likelihood of each candidate there, with the prior of the lapse, [J, Q].
        scatters: of each candidate, [J].
        seeds: logarithms of the seeds' half multiples under each candidate, [J, S].
        lapse_errors: standard errors of the square root of the lapse, [J].
        lapse_slopes: change of a half multiple's logarithm with it, mean over the seeds, [J].
        step: the step that fits best; None where the half multiple is beyond the tested lengths.
    """

    logistic_bic: float
    members: Mapping[Family | Form, Sequence[int]]
    best: Mapping[Family | Form, int]
    parameters: Floats
    mu: Floats
    values: Floats
    scatters: Floats
    seeds: Floats
    lapse_errors: Floats
    lapse_slopes: Floats
    step: Step | None

    def unresolved(self, family: Family) -> Step | None:
        """Return the step, where a family of free steepness has nothing over it."""
        if self.step is None or family != "weibull":
            return None
        return self.step if 2 * (self.values.max() - self.step.value) < CLOSE else None

    def log_half(self, family: Family) -> float:
        """Return the logarithm of the half multiple at the optimum of a family that fails."""
        return float(self.mu[self.values[self.best[family]].argmax()])


def fit_candidates(
    groups: Sequence[Sequence[LengthCurve]], settings: VerdictSettings
) -> list[CellFit]:
    """Fit every family to each cell, and M2 with several values of beta."""
    # in parts, so that a thousand cells need no more memory than a hundred
    parts = [groups[n : n + _CELLS_AT_ONCE] for n in range(0, len(groups), _CELLS_AT_ONCE)]
    return [subject for part in parts for subject in _fit_part(part, settings)]


def kind_of(subject: FailingFit, family: Family, settings: VerdictSettings) -> Kind:
    """Say what a family's optimum would be called: a slope that costs nothing is no failure."""
    if family == "holds":
        return "holds"
    n = subject.best[family]
    beta = float(np.exp(subject.parameters[n, 0, BETA]))
    half = float(np.exp(subject.log_half(family)))
    if survival(np.array([subject.last]), half, beta)[0] >= settings.near_perfect:
        return "holds"
    return "sharp" if sharpness(beta) <= settings.sharp_ratio else "gradual"


def _fit_part(groups: Sequence[Sequence[LengthCurve]], settings: VerdictSettings) -> list[CellFit]:
    whole, cells = Cells.stack(groups), stack_seeds(groups)
    held, held_value = optimise(whole, "holds")
    held_value -= held[:, LAPSE] ** 2 / LAPSE_MEAN
    weibull, gradual = fit_jointly(cells, "weibull"), fit_jointly(cells, "gradual")
    subjects: list[CellFit] = []
    for curves, *values in zip(groups, held_value, gradual.value, weibull.value, strict=True):
        # with the half multiples integrated out no shape reaches the value of its best ones
        bic = _bics(dict(zip(FAMILIES, values, strict=True)), curves)
        subjects.append(CellFit(tuple(curves), bic))
    asked = np.array([n for n, one in enumerate(subjects) if not _surely_holds(one)], dtype=np.intp)
    if len(asked):
        some = [groups[n] for n in asked]
        fits = _shapes(weibull.take(asked), gradual.take(asked), cells.take(asked), settings)
        found = profile_medians(fits, cells.take(asked))
        fitted = [
            _subject(row, some[row], fits, found, held_value[n]) for row, n in enumerate(asked)
        ]
        halves = np.exp([one.log_half("weibull") for one in fitted])
        for n, one, step in zip(asked, fitted, fit_steps(some, halves), strict=True):
            subjects[n] = replace(one, step=step)
    return subjects


def _shapes(
    weibull: JointFits, gradual: JointFits, cells: Cells, settings: VerdictSettings
) -> list[JointFits]:
    """Return every candidate for the shape of each cell; the last is M1."""
    cut = log_span() / np.log(settings.sharp_ratio)
    betas = _less_steep(weibull, cells, cut)
    logistic = refit_as(weibull, cells, "logistic")
    # the Weibull form has the widest candidates already
    others = _less_steep(logistic, cells, cut)[1:3]
    return [
        *(weibull, *(refit_with(weibull, cells, beta) for beta in betas)),
        *(logistic, *(refit_with(logistic, cells, beta) for beta in others)),
        gradual,
    ]


def _surely_holds(subject: CellFit) -> bool:
    """Whether "holds" is ahead of whatever fails, by more than is close."""
    failing = min(bic for family, bic in subject.bic.items() if family != "holds")
    return failing - subject.bic["holds"] >= CLOSE


def _bics(values: Mapping[Family, float], curves: Sequence[LengthCurve]) -> dict[Family, float]:
    log_n = np.log(sum(len(curve.lengths) for curve in curves))
    return {f: float(-2 * values[f] + k * log_n) for f, k in _NUM_PARAMETERS.items()}


def _subject(
    row: int,
    curves: Sequence[LengthCurve],
    fits: Sequence[JointFits],
    found: Sequence[Thresholds],
    held_value: float,
) -> FailingFit:
    parameters = np.stack([fit.parameters[row, : len(curves)] for fit in fits])
    values = np.stack([one.log_likelihood[row] for one in found])
    values -= parameters[:, :1, LAPSE] ** 2 / LAPSE_MEAN
    peaks = values.max(1)
    members: dict[Family | Form, list[int]] = {
        "gradual": [n for n, fit in enumerate(fits) if fit.family == "gradual"],
        "weibull": [
            n for n, fit in enumerate(fits) if (fit.family, fit.form) == ("weibull", "weibull")
        ],
        "logistic": [n for n, fit in enumerate(fits) if fit.form == "logistic"],
    }
    best = {name: rows[int(peaks[rows].argmax())] for name, rows in members.items()}
    highest: dict[Family, float] = {"holds": held_value, "gradual": peaks[best["gradual"]]}
    return FailingFit(
        curves=tuple(curves),
        bic=_bics({**highest, "weibull": peaks[best["weibull"]]}, curves),
        logistic_bic=_bics({**highest, "weibull": peaks[best["logistic"]]}, curves)["weibull"],
        members=members,
        best=best,
        parameters=parameters,
        mu=found[0].mu[row],
        values=values,
        scatters=np.array([one.scatter[row] for one in found]),
        seeds=np.stack([one.seeds[row, : len(curves)] for one in found]),
        lapse_errors=np.array([np.sqrt(fit.covariance[row, 1, 1]) for fit in fits]),
        lapse_slopes=np.array([fit.slopes[row, : len(curves), 1].mean() for fit in fits]),
        step=None,
    )


def _less_steep(weibull: JointFits, cells: Cells, cut: float) -> list[Floats]:
    """Return other candidates for beta than the joint optimum, [4] of [C].

    With a threshold for each seed the optimum is too steep: a step explains all seeds that fail
    between the same two lengths. The candidates are judged with the thresholds integrated out.
    They reach down to a deviance of about 9, taken as quadratic in the width 1 / beta of the fall,
    or, where the fall is wide, to two standard errors on either side.
    """
    log_beta = weibull.parameters[:, 0, BETA]
    at_cut = refit_with(weibull, cells, np.full(len(log_beta), cut))
    lost = np.maximum(2 * (weibull.value - at_cut.value), 1e-9)
    width = np.exp(-np.minimum(log_beta, np.log(_STEEPEST)))
    widest = width + np.maximum(1 / cut - width, 0.0) * np.minimum(3 / np.sqrt(lost), 1.5)
    error = np.clip(np.sqrt(weibull.covariance[:, 0, 0]), 0.03, 0.4)
    is_steep = np.exp(log_beta) > 1.35 * cut
    return [
        np.where(
            is_steep,
            1 / (width + share * (widest - width)),
            np.clip(np.exp(log_beta + step * error), 0.31, 900.0),
        )
        for share, step in ((0.2, -2.0), (0.4, -1.0), (0.7, 1.0), (1.0, 2.0))
    ]
