"""`tasks` and `models`: what a study can name."""

from __future__ import annotations

from typing import Any

import click

from ldru_study.cli.group import StudyGroup, json_option, print_json, print_table


@click.group(cls=StudyGroup)
def tasks() -> None:
    """The tasks that a study can name."""


@tasks.command("list")
@json_option
def list_tasks(as_json: bool) -> None:
    """List all tasks.

    \b
    Example: ldru-study tasks list
    """
    from ldru_study.tasks.registry import find_task, task_names

    found = [find_task(name) for name in task_names()]
    rows = [(task.name, task.num_symbols, task.num_classes, task.summary) for task in found]
    columns = ("task", "symbols", "classes", "summary")
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(columns, rows, right=("symbols", "classes"))


@tasks.command("show")
@click.argument("task")
@click.option("--length", "lengths", multiple=True, type=click.IntRange(1), help="Repeatable.")
@json_option
def show_task(task: str, lengths: tuple[int, ...], as_json: bool) -> None:
    """Show a task: its classes, examples, and chance per length.

    \b
    Example: ldru-study tasks show tomita_5 --length 40 --length 41
    """
    from ldru_study.tasks.registry import find_task
    from ldru_study.tasks.sampling import BalancedSampler

    found = find_task(task)
    sampler = BalancedSampler(found.automaton)
    rows = [
        (length, True, f"{sampler.chance(length):.4f}")
        if sampler.covers(length)
        else (length, False, None)
        for length in lengths or (1, 2, 10, 40, 41, 1000)
    ]
    if as_json:
        print_json(
            {
                "task": found.name,
                "summary": found.summary,
                "symbols": list(found.symbols),
                "classes": list(found.classes),
                "examples": [list(example) for example in found.examples],
                "lengths": [
                    {"length": length, "covered": covered, "chance": chance and float(chance)}
                    for length, covered, chance in rows
                ],
            }
        )
        return
    click.echo(f"{found.name}: {found.summary}")
    click.echo(f"  symbols  {' '.join(found.symbols)}")
    click.echo(f"  classes  {', '.join(found.classes)}")
    for string, label in found.examples:
        click.echo(f"  example  {string or '(empty)'} -> {found.classes[label]}")
    print_table(("length", "every class exists", "chance (balanced)"), rows, right=("length",))


@click.group(cls=StudyGroup)
def models() -> None:
    """The models that a study can name."""


@models.command("list")
@json_option
def list_models(as_json: bool) -> None:
    """List all kinds of model with their fields and defaults.

    \b
    Example: ldru-study models list
    """
    from ldru_study.spec.model import MODEL_CONFIGS

    found: list[dict[str, Any]] = [
        {
            "kind": kind,
            "summary": (config.__doc__ or "").split("\n")[0],
            "fields": {
                name: field.default for name, field in config.model_fields.items() if name != "kind"
            },
        }
        for kind, config in sorted(MODEL_CONFIGS.items())
    ]
    if as_json:
        print_json(found)
        return
    rows = [
        (
            model["kind"],
            ", ".join(f"{name}: {value}" for name, value in model["fields"].items()),
            model["summary"],
        )
        for model in found
    ]
    print_table(("kind", "fields and defaults", "summary"), rows)
