"""What a study says in plain sentences: one answer per model, and what it cannot say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ldru_study.analysis.cell import CellVerdict
from ldru_study.analysis.claims import Claim
from ldru_study.analysis.drawing import Draw, how_drawn
from ldru_study.analysis.failure import UNKNOWN
from ldru_study.analysis.intervals import zero_error_bound
from ldru_study.analysis.tables import estimate, left_out_words, may_change
from ldru_study.analysis.verdict import Kind, times

WORDS: dict[Kind, str] = {
    "holds": "holds",
    "gradual": "fades",
    "sharp": "collapses",
    "never_learned": "never learned",
    "inconclusive": "undecided",
}
# what becomes of a claim, in the order in which it is told
_UNTESTED = "untested"
_OUTCOMES = ("supported", "refuted", "undecided", _UNTESTED)
# tasks that are named one by one; of more only the number is said
_MOST_NAMED = 4


def answer(verdicts: Sequence[CellVerdict]) -> str:
    """Say in one sentence what became of one model over all of its tasks.

    Args:
        verdicts: its cells, one per task.
    """
    num_tasks = len(verdicts)
    parts = []
    for kind, word in WORDS.items():
        found = [verdict for verdict in verdicts if verdict.kind == kind]
        if not found:
            continue
        where = "" if num_tasks == 1 else f" on {_tasks(found, num_tasks)}"
        if kind == "never_learned":
            parts.append(word if num_tasks == 1 else f"{word}: {_tasks(found, num_tasks)}")
        elif kind == "holds":
            reach = min(curve.multiples[-1] for v in found for curve in v.cell.curves)
            parts.append(f"{word}{where} as far as tested ({times(float(reach))})")
        else:
            parts += _failing(word, found, num_tasks)
    if missing := [verdict for verdict in verdicts if verdict.kind is None]:
        parts.append(f"no result on {_tasks(missing, num_tasks)}")
    mixed = [verdict for verdict in verdicts if verdict.left_out]
    if mixed:
        parts.append(
            "seeds disagree" + ("" if num_tasks == 1 else f" on {_tasks(mixed, num_tasks)}")
        )
    return "; ".join(parts) + "."


def near_perfect_answer(verdicts: Sequence[CellVerdict]) -> str:
    """Say at which multiples one model is near-perfect: "near-perfect at 2x: supported in ...".

    Args:
        verdicts: its cells, one per task.
    """
    parts: dict[str, list[str]] = {}
    for claims in zip(*(verdict.claims for verdict in verdicts), strict=True):
        found = _outcome_words([claim.outcome for claim in claims], verdicts)
        parts.setdefault(found, []).append(times(claims[0].multiple))
    told = (f"at {' and '.join(multiples)}: {found}" for found, multiples in parts.items())
    return f"near-perfect {'; '.join(told)}."


def _outcome_words(outcomes: Sequence[str | None], verdicts: Sequence[CellVerdict]) -> str:
    """Count the outcomes at one multiple: "supported in 5 of 6 tasks, refuted in 1"."""
    num_tasks = len(outcomes)
    counts = Counter(outcome or _UNTESTED for outcome in outcomes)
    (first, number), *others = ((name, counts[name]) for name in _OUTCOMES if counts[name])
    found = first
    if others:
        found += f" in {number} of {num_tasks} tasks"
        found += "".join(f", {name} in {count}" for name, count in others)
    elif num_tasks > 1:
        found += f" in {_tasks(verdicts, num_tasks)}"
    waits = any(
        may_change([outcome], verdict.cell.num_unfinished)
        for outcome, verdict in zip(outcomes, verdicts, strict=True)
    )
    return f"{found} (so far)" if waits else found


def claim_lines(verdict: CellVerdict) -> list[str]:
    """Say of a cell at each multiple whether it is near-perfect, and what its seeds say."""
    return [_claim_line(claim, verdict) for claim in verdict.claims]


def _claim_line(claim: Claim, verdict: CellVerdict) -> str:
    waiting = verdict.cell.num_unfinished
    outcome = claim.outcome or _UNTESTED
    so_far = " so far" if may_change([claim.outcome], waiting) else ""
    parts = [
        f"Near-perfect (at least {100 * claim.level:g} % right) at {times(claim.multiple)}: "
        f"{outcome}{so_far}"
    ]
    if claim.outcome is not None:
        counts: Counter[str] = Counter(claim.by_seed.values())
        seeds = ", ".join(f"{counts[name]} {name}" for name in _OUTCOMES if counts[name])
        parts.append(f"each seed alone: {seeds}")
    if claim.outcome == "undecided" and _has_few_strings(claim, verdict):
        parts.append(f"a seed without a mistake needs {claim.needs} strings")
    if so_far:
        parts.append(f"{waiting} seeds to come")
    return "; ".join(parts) + "."


def _has_few_strings(claim: Claim, verdict: CellVerdict) -> bool:
    """Return whether some seed has too few strings to pass, however right it is."""
    for curve in verdict.cell.curves:
        nearest = curve.nearest(claim.multiple)
        if nearest is not None and curve.num_total[nearest] < claim.needs:
            return True
    return False


def _tasks(verdicts: Sequence[CellVerdict], num_tasks: int) -> str:
    names = [verdict.cell.task for verdict in verdicts]
    if len(names) == num_tasks:
        return {1: "its task", 2: "both tasks"}.get(num_tasks, f"all {num_tasks} tasks")
    if len(names) > _MOST_NAMED:
        return f"{len(names)} of {num_tasks} tasks"
    return ", ".join(names)


def _failing(word: str, verdicts: Sequence[CellVerdict], num_tasks: int) -> list[str]:
    """Say where cells of one kind fail: each by its own number, or very many by their range."""
    known = [verdict for verdict in verdicts if verdict.half_multiple != UNKNOWN]
    unknown = [verdict for verdict in verdicts if verdict.half_multiple == UNKNOWN]
    parts = []
    if num_tasks == 1 and known:
        parts.append(f"{word}, half way to chance at {estimate(known[0].half_multiple)}")
    elif len(known) > _MOST_NAMED:
        at = sorted(v.half_multiple.value for v in known if v.half_multiple.value is not None)
        span = f", half way to chance at {times(at[0])} to {times(at[-1])}" if at else ""
        parts.append(f"{word} on {_tasks(known, num_tasks)}{span}")
    elif known:
        each = [f"{estimate(v.half_multiple)} on {v.cell.task}" for v in known]
        parts.append(f"{word}, half way to chance at {', '.join(each)}")
    if unknown:
        parts.append(word if num_tasks == 1 else f"{word} on {_tasks(unknown, num_tasks)}")
    return parts


def headline(verdict: CellVerdict) -> str:
    """Say in a few words what became of a cell, for its place in the table of all cells."""
    return "" if verdict.half_multiple == UNKNOWN else estimate(verdict.half_multiple)


def cell_sentence(verdict: CellVerdict) -> str:
    """Say what became of a cell, where, and which of its seeds did otherwise."""
    if verdict.kind is None:
        return "no result"
    found, word = headline(verdict), WORDS[verdict.kind]
    if found:
        word += f" ({found})" if verdict.kind == "holds" else f", half way to chance at {found}"
    return ", ".join([word, *filter(None, [left_out_words(verdict.left_out)])])


def limits(verdicts: Sequence[CellVerdict], draws: Iterable[Draw]) -> dict[str, str]:
    """Say what the study cannot say, by name of the limit.

    Args:
        verdicts: every cell.
        draws: the task and the sampling of each cell.
    """
    return {
        **_censoring(verdicts),
        **_seeds(verdicts),
        **_strings(verdicts),
        "Between the lengths": "Only the lengths that were asked for were tested. A curve between "
        "two of them is an interpolation, and a failure that comes and goes with the length is "
        "seen only where it was looked for.",
        **_sampling(draws),
        **_selection(verdicts),
        **_failures(verdicts),
    }


def _censoring(verdicts: Sequence[CellVerdict]) -> dict[str, str]:
    held = [v for v in verdicts if v.counts.get("holds")]
    if not held:
        return {}
    reach = max(curve.multiples[-1] for v in held for curve in v.cell.curves)
    return {
        "Beyond the longest length": f"In {len(held)} of {len(verdicts)} cells some seed shows no "
        f"failure. Whether and where it fails beyond the longest length tested ({times(reach)}) is "
        "not known: such failure points are bounds, not numbers."
    }


def _seeds(verdicts: Sequence[CellVerdict]) -> dict[str, str]:
    numbers = sorted({len(v.seeds) for v in verdicts if v.seeds})
    if not numbers:
        return {}
    shown = _span([str(number) for number in numbers])
    most = 100 * zero_error_bound(numbers[0])
    return {
        "Seeds": f"{shown} seeds per cell. If none of {numbers[0]} fails, still up to {most:.0f} % "
        "of all possible seeds may (95 % bound)."
    }


def _strings(verdicts: Sequence[CellVerdict]) -> dict[str, str]:
    totals = sorted({int(n) for v in verdicts for c in v.cell.curves for n in c.num_total})
    if not totals:
        return {}
    most = 100 * zero_error_bound(totals[0])
    return {
        "Strings": f"{_span([str(n) for n in totals])} strings per length and seed. If all of "
        f"{totals[0]} are right, the error rate may still be {most:.2g} % (95 % bound)."
    }


def _sampling(draws: Iterable[Draw]) -> dict[str, str]:
    how = how_drawn(draws)
    if not how:
        return {}
    return {
        "Sampling": f"Test strings are drawn as the study says ({how}). Accuracy on strings drawn "
        "otherwise, such as rare, structured or adversarial ones, may be lower."
    }


def _selection(verdicts: Sequence[CellVerdict]) -> dict[str, str]:
    chosen = {v.cell.chosen_by for v in verdicts}
    if "oracle" in chosen:
        text = "Some settings were chosen on lengths that also judge, so accuracy is flattered."
    elif "search" in chosen:
        text = "Settings were chosen by a search that saw no test length; others may do better."
    else:
        text = "Settings are those of the study file. A model that fails may hold with others."
    return {"Settings": text}


def _failures(verdicts: Sequence[CellVerdict]) -> dict[str, str]:
    num_failed = sum(len(v.cell.failed) for v in verdicts)
    if not num_failed:
        return {}
    return {
        "Failed trials": f"{num_failed} trials failed and have no say. If they failed because of "
        "what they are, the verdicts are too kind."
    }


def _span(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{words[0]} to {words[-1]}"


def by_label(verdicts: Iterable[CellVerdict]) -> Mapping[str, list[CellVerdict]]:
    """Return the cells of each model, in order of appearance."""
    found: dict[str, list[CellVerdict]] = {}
    for verdict in verdicts:
        found.setdefault(verdict.cell.label, []).append(verdict)
    return found
