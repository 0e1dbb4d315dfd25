"""Counts from anywhere: cases in JSON, read strictly and judged as the cells of a study are.

    {"cases": [{"id": "a", "multiples": [1, 2, 4], "num_correct": [[64, 60, 33], [64, 63, 40]],
                "num_total": 64, "chance": 0.5}]}

``num_correct`` has one list per seed with one count per multiple. ``num_total`` is one number, one
per multiple, or shaped like ``num_correct``; ``chance`` is one number or one per multiple.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ldru_study.analysis.consensus import JointVerdict, judge_jointly
from ldru_study.analysis.counts import LengthCurve
from ldru_study.analysis.failure import Estimate
from ldru_study.analysis.verdict import VerdictSettings
from ldru_study.errors import InputError, did_you_mean

# the half multiple is what is asked, so a curve is learned that begins above half way to chance:
# multiples may begin at 1, where a gradual failure is under way already
CASE_SETTINGS = VerdictSettings(learned_level=0.5, near_perfect=0.95)
_FIELDS = ("id", "multiples", "num_correct", "num_total", "chance")
# curves count lengths in tokens; multiples are kept to a millionth
_RESOLUTION = 1_000_000
_Name = Callable[[int], str]


@dataclass(frozen=True, eq=False)
class Case:
    """The counts of one cell under the name that its file gives it."""

    id: str | int
    curves: tuple[LengthCurve, ...]


def read_cases(text: str, source: str) -> list[Case]:
    """Read cases; ``source`` says in errors where the text is from.

    Raises:
        InputError: the text is no JSON of that form; it names case, field and value of every
            problem.
    """
    try:
        content = json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        raise InputError(source, [f"this is no JSON: {error}."]) from None
    given = content.get("cases") if isinstance(content, dict) else content
    if not isinstance(given, list):
        found = _describe(content if given is None else given)
        raise InputError(
            source, [f'cases: a list is expected, as in {{"cases": []}}, not {found}.']
        )
    problems: list[str] = []
    cases: list[Case] = []
    names: dict[str | int, int] = {}
    for number, raw in enumerate(given):
        where = f"cases[{number}]"
        if isinstance(raw, dict) and isinstance(raw.get("id"), str | int):
            where = f"case '{raw['id']}'"
            first = names.setdefault(raw["id"], number)
            if first != number:
                problems.append(f"{where}: id: cases[{first}] has the same. Give another.")
        try:
            cases.append(_case(raw))
        except ValueError as error:
            problems.append(f"{where}: {error}")
    if problems:
        raise InputError(source, problems)
    return cases


def judge_cases(
    cases: Sequence[Case], settings: VerdictSettings = CASE_SETTINGS
) -> list[JointVerdict]:
    """Judge every case by all of its seeds together; see `consensus.judge_jointly`."""
    return judge_jointly([case.curves for case in cases], settings, levels=())


def case_json(case: Case, verdict: JointVerdict) -> dict[str, Any]:
    """Return what is said about one case as plain values for `json.dumps`.

    ``half_multiple`` is null where the counts do not identify it; ``half_multiple_ci95`` is null
    where nothing fails, and one of its ends where the counts leave that end open.
    ``half_multiple_beyond`` is the longest multiple of a case that holds up to there.
    """
    half = verdict.half_multiple
    is_beyond = verdict.kind == "holds"
    has_interval = not is_beyond and half != Estimate(None, None, None)
    return {
        "id": case.id,
        "verdict": verdict.kind,
        "half_multiple": half.value,
        "half_multiple_ci95": [half.lower, half.upper] if has_interval else None,
        "half_multiple_beyond": half.lower if is_beyond else None,
        "reason": verdict.reason,
        "num_seeds": len(case.curves),
        "left_out": {str(case.curves[n].seed): k for n, k in _left_out(case, verdict)},
        "scatter": verdict.scatter,
        "sharpness": verdict.sharpness,
        "lapse": verdict.lapse,
        "rho": verdict.rho,
    }


def _left_out(case: Case, verdict: JointVerdict) -> list[tuple[int, str]]:
    return [
        (n, verdict.left_out[curve.seed])
        for n, curve in enumerate(case.curves)
        if curve.seed in verdict.left_out
    ]


def _case(raw: Any) -> Case:
    if not isinstance(raw, dict):
        raise ValueError(f"an object with {', '.join(_FIELDS)} is expected, not {_describe(raw)}.")
    missing = [name for name in _FIELDS if name not in raw]
    if missing:
        others = [key for key in raw if key not in _FIELDS]
        hint = did_you_mean(missing[0], others)
        has = f"The case has {', '.join(map(repr, raw)) or 'nothing'}."
        raise ValueError(f"{missing[0]}: it is missing. {hint or has}")
    if not isinstance(raw["id"], str | int) or isinstance(raw["id"], bool):
        raise ValueError(f"id: a text or a whole number is expected, not {_describe(raw['id'])}.")
    multiples = _multiples(raw["multiples"])
    rows = _rows(raw["num_correct"], len(multiples))
    totals = _totals(raw["num_total"], len(rows), len(multiples))
    chance = _numbers("chance", raw["chance"], len(multiples), _chance)
    for s, (row, total) in enumerate(zip(rows, totals, strict=True)):
        for k, (count, limit) in enumerate(zip(row, total, strict=True)):
            if count > limit:
                place = f"num_correct[{s}][{k}]"
                raise ValueError(f"{place}: {count} is above num_total {limit}.")
    lengths = np.rint(np.array(multiples) * _RESOLUTION)
    curves = tuple(
        LengthCurve(
            seed=s,
            train_max_length=_RESOLUTION,
            lengths=lengths,
            num_correct=np.array(row),
            num_total=np.array(total),
            chance=np.array(chance),
        )
        for s, (row, total) in enumerate(zip(rows, totals, strict=True))
    )
    return Case(raw["id"], curves)


def _multiples(raw: Any) -> list[float]:
    if not isinstance(raw, list) or not raw:
        raise ValueError(f"multiples: a list of numbers is expected, not {_describe(raw)}.")
    values = [_multiple(f"multiples[{n}]", value) for n, value in enumerate(raw)]
    steps: dict[int, int] = {}
    for n, value in enumerate(values):
        first = steps.setdefault(round(value * _RESOLUTION), n)
        if first != n:
            raise ValueError(f"multiples[{n}]: {raw[n]} is there already, as multiples[{first}].")
    return values


def _rows(raw: Any, num_multiples: int) -> list[list[float]]:
    if not isinstance(raw, list) or not raw:
        form = "a list of counts per seed is expected"
        raise ValueError(f"num_correct: {form}, not {_describe(raw)}.")
    if not any(isinstance(row, list) for row in raw):
        # one seed, written without the outer brackets
        raw = [raw]
    return [_numbers(f"num_correct[{s}]", row, num_multiples, _count) for s, row in enumerate(raw)]


def _totals(raw: Any, num_seeds: int, num_multiples: int) -> list[list[float]]:
    if isinstance(raw, list) and any(isinstance(row, list) for row in raw):
        if len(raw) != num_seeds:
            raise ValueError(f"num_total: {len(raw)} lists for {num_seeds} seeds.")
        return [_numbers(f"num_total[{s}]", r, num_multiples, _total) for s, r in enumerate(raw)]
    return [_numbers("num_total", raw, num_multiples, _total)] * num_seeds


def _numbers(place: str, raw: Any, length: int, read: Callable[[str, Any], float]) -> list[float]:
    """Return one number per multiple; a single one (not for counts of a seed) stands for all."""
    if not isinstance(raw, list):
        if read is _count:
            raise ValueError(f"{place}: a list of counts is expected, not {_describe(raw)}.")
        return [read(place, raw)] * length
    if len(raw) != length:
        raise ValueError(f"{place}: {len(raw)} values for {length} multiples.")
    return [read(f"{place}[{n}]", value) for n, value in enumerate(raw)]


def _multiple(place: str, value: Any) -> float:
    number = _number(place, value)
    if number * _RESOLUTION < 1 or number > 1e9:
        raise ValueError(f"{place}: {value} is no multiple; it must lie in 1e-6 to 1e9.")
    return number


def _count(place: str, value: Any) -> float:
    number = _number(place, value)
    if number < 0 or number != int(number):
        raise ValueError(f"{place}: {value} is no count; it must be a whole number >= 0.")
    return int(number)


def _total(place: str, value: Any) -> float:
    if _count(place, value) < 1:
        raise ValueError(f"{place}: {value} strings can show nothing; it must be >= 1.")
    return int(value)


def _chance(place: str, value: Any) -> float:
    number = _number(place, value)
    if not 0 <= number < 1:
        raise ValueError(f"{place}: {value} is no chance; it must be >= 0 and < 1.")
    return number


def _number(place: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{place}: a number is expected, not {_describe(value)}.")
    return value


def _describe(value: Any) -> str:
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")
