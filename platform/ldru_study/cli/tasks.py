"""`tasks`: what a study can ask, how its strings are drawn, and whether labels agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ldru_study.cli.group import (
    StudyGroup,
    conclude_check,
    console,
    json_option,
    print_json,
    print_table,
    read_lengths,
)

if TYPE_CHECKING:
    from ldru_study.tasks.samplers import Sampling
    from ldru_study.tasks.task import Task

_LENGTHS = (10, 40, 41, 80, 400)
# tokens of the strings that are shown
_DRAWN_LENGTH, _NUM_DRAWN = 16, 4
_MOST_CLASSES = 12


@click.group(cls=StudyGroup)
def tasks() -> None:
    """The tasks that a study can name."""


@tasks.command("list")
@json_option
def list_tasks(as_json: bool) -> None:
    """List all tasks, with the algebra behind them.

    Of a regular task: states of its smallest automaton, different maps of states that strings
    cause, whether it counts modulo something (not star-free), whether its groups are solvable.

    \b
    Example: ldru-study tasks list
    """
    from ldru_study.tasks.registry import find_task, task_names

    rows = [_row(find_task(name)) for name in task_names()]
    if as_json:
        print_json(rows)
        return
    columns = ("task", "symbols", "classes", "states", "monoid", "star-free", "solvable", "summary")
    print_table(columns, [list(row.values()) for row in rows], right=columns[1:5])


def _row(task: Task) -> dict[str, Any]:
    return {
        "task": task.label,
        "symbols": task.num_symbols,
        "classes": task.num_classes,
        **(_algebra(task) or dict.fromkeys(("states", "monoid", "star_free", "solvable"))),
        "summary": task.summary,
    }


def _algebra(task: Task) -> dict[str, Any] | None:
    from ldru_study.tasks.algebra import algebra_of

    if not task.is_regular:
        return None
    found = algebra_of(task.automaton)
    more = f"more than {found.monoid_limit}"
    return {
        "states": found.num_states,
        "monoid": more if found.monoid_size is None else found.monoid_size,
        "star_free": found.is_star_free,
        "solvable": found.is_solvable,
    }


@tasks.command("show")
@click.argument("task")
@click.option(
    "--lengths",
    callback=read_lengths,
    default=",".join(map(str, _LENGTHS)),
    show_default=True,
    metavar="N,N,...",
    help="Lengths in tokens.",
)
@click.option(
    "--sampling",
    type=click.Choice(["balanced", "hard", "paper"]),
    help="How strings are drawn. [default: every way that the task has]",
)
@click.option(
    "--window",
    type=click.IntRange(1),
    default=40,
    show_default=True,
    help="Tokens that a shortcut reads: the training length.",
)
@json_option
def show_task(
    task: str, lengths: tuple[int, ...], sampling: Sampling | None, window: int, as_json: bool
) -> None:
    """Show a task: its automaton, its strings, and what chance and short windows score.

    TASK is a name, or a language of your own such as "regex:(0|1)*010(0|1)*". Chance is the best
    constant answer; a window is the best answer from the first or last tokens alone. An accuracy
    after ~ is estimated on drawn strings, all others are exact.

    \b
    Example: ldru-study tasks show d_4 --lengths 40,80,500 --sampling paper
    """
    from ldru_study.tasks.registry import find_task
    from ldru_study.tasks.samplers import samplings_of

    found = find_task(task)
    samplings = [sampling] if sampling else samplings_of(found.name)
    rows = [row for one in samplings for row in _lengths(found, one, lengths, window)]
    drawn = {one: _drawn(found, one) for one in samplings}
    if as_json:
        print_json(
            {
                "task": found.name,
                "label": found.label,
                "summary": found.summary,
                "symbols": list(found.symbols),
                "meaning": found.meaning,
                "classes": list(found.classes),
                "examples": [list(example) for example in found.examples],
                "automaton": _algebra(found),
                "drawn": drawn,
                "lengths": rows,
            }
        )
        return
    _print_facts(found, drawn)
    columns = ("sampling", "length", "chance", f"first {window}", f"last {window}", "")
    print_table(columns, [_cells(row) for row in rows], right=columns[1:5])


def _lengths(
    task: Task, sampling: Sampling, lengths: Sequence[int], window: int
) -> list[dict[str, Any]]:
    from ldru_study.tasks.samplers import is_chance_exact, sampler_of
    from ldru_study.tasks.windows import window_shortcuts

    sampler = sampler_of(task.name, sampling)
    covered = [length for length in lengths if sampler.covers(length)]
    windows = dict(
        zip(covered, window_shortcuts(task.name, sampling, covered, window), strict=True)
    )
    rows = []
    for length in lengths:
        seen = windows.get(length)
        rows.append(
            {
                "sampling": sampling,
                "length": length,
                "is_used": seen is not None,
                "chance": sampler.chance(length) if seen else None,
                "is_chance_exact": is_chance_exact(task.name, sampling, length),
                "window": window,
                "first_window": seen and seen.first,
                "last_window": seen and seen.last,
                "is_window_exact": seen and seen.is_exact,
            }
        )
    return rows


def _cells(row: dict[str, Any]) -> tuple[Any, ...]:
    if not row["is_used"]:
        return row["sampling"], row["length"], None, None, None, "not used: labels are missing"
    exact = row["is_window_exact"]
    return (
        row["sampling"],
        row["length"],
        _percent(row["chance"], row["is_chance_exact"]),
        _percent(row["first_window"], exact),
        _percent(row["last_window"], exact),
        "window unknown: no automaton to count by" if row["first_window"] is None else None,
    )


def _percent(share: float | None, is_exact: bool) -> str | None:
    return None if share is None else f"{'' if is_exact else '~'}{100 * share:.1f} %"


def _drawn(task: Task, sampling: Sampling) -> list[list[str]]:
    """Return some strings of a sampling, each with its class."""
    import numpy as np

    from ldru_study.tasks.samplers import sampler_of
    from ldru_study.tasks.streams import random_stream

    sampler = sampler_of(task.name, sampling)
    lengths = np.full(_NUM_DRAWN, sampler.nearest_covered(_DRAWN_LENGTH))
    tokens, labels = sampler.sample(lengths, random_stream(0, f"shown/{sampling}"))
    pairs = zip(tokens, labels, strict=True)
    return [[task.decode(string), task.classes[label]] for string, label in pairs]


def _print_facts(task: Task, drawn: dict[Sampling, list[list[str]]]) -> None:
    from rich.text import Text

    screen = console()
    screen.print(Text.assemble((task.label, "bold"), f": {task.summary}"), soft_wrap=True)
    classes = list(task.classes[:_MOST_CLASSES])
    if task.num_classes > _MOST_CLASSES:
        classes.append(f"... {task.num_classes} in all")
    lines = [
        ("symbols", " ".join(task.symbols)),
        *([("meaning", task.meaning)] if task.meaning else []),
        ("classes", ", ".join(classes)),
        ("automaton", _in_words(_algebra(task))),
        *(
            ("example", f"{string or '(empty)'} -> {task.classes[label]}")
            for string, label in task.examples
        ),
        *(
            (sampling, f"{string} -> {label}")
            for sampling, strings in drawn.items()
            for string, label in strings
        ),
    ]
    before = ""
    for name, text in lines:
        shown = "" if name == before else name
        screen.print(Text.assemble((f"  {shown:<11}", "dim"), text), soft_wrap=True)
        before = name


def _in_words(algebra: dict[str, Any] | None) -> str:
    if algebra is None:
        return "none: not regular at unbounded depth"
    words = {True: "", False: "not ", None: "unknown whether "}
    return (
        f"{algebra['states']} states, {algebra['monoid']} maps of states, "
        f"{words[algebra['star_free']]}star-free, {words[algebra['solvable']]}solvable"
    )


@tasks.command("verify")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def verify(file: Path, as_json: bool) -> None:
    """Compare labels in an .npz file with ours; exit code 4 if any differs.

    The file has integers '<task>|<length>|x', [num, T] token ids, and '<task>|<length>|y', [num]
    labels, such as 'd_4|40|x'. The length of the strings is T. What cannot be compared is named,
    with exit code 2, beside what can.

    \b
    Example: ldru-study tasks verify labels.npz --json
    """
    from ldru_study.tasks.verify import verify_labels

    compared, problems = verify_labels(file)
    by_task = {
        one.task: [other for other in compared if other.task == one.task] for one in compared
    }
    rows = [
        {
            "task": task,
            "num_strings": sum(one.num_strings for one in parts),
            "num_disagreements": sum(one.num_disagreements for one in parts),
            "example": next((one.example for one in parts if one.example), None),
            "arrays": [asdict(one) for one in parts],
        }
        for task, parts in by_task.items()
    ]
    num_wrong = sum(one.num_disagreements for one in compared)
    if as_json:
        print_json({"num_disagreements": num_wrong, "tasks": rows, "problems": problems})
    else:
        columns = ("task", "strings", "disagreements", "first of them")
        print_table(columns, [list(row.values())[:4] for row in rows], right=columns[1:3])
    conclude_check(file, problems, is_right=not num_wrong)
