"""`models`: what a study can name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import click

from ldru_study.cli.group import (
    StudyGroup,
    conclude_check,
    json_option,
    print_json,
    print_table,
    read_lengths,
)

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from ldru_study.spec.trial import TrialConfig


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


@models.command("show")
@click.argument("kind")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Change a field, value in YAML; repeatable. Example: --set match_parameters=100000",
)
@click.option(
    "--task",
    default="parity_check",
    show_default=True,
    help="Whose symbols and classes are counted.",
)
@click.option(
    "--lengths",
    callback=read_lengths,
    default="40,400,4000",
    show_default=True,
    metavar="N,N,...",
    help="Lengths in tokens.",
)
@json_option
def show_model(
    kind: str, changes: tuple[str, ...], task: str, lengths: tuple[int, ...], as_json: bool
) -> None:
    """Show a model: its fields, where it comes from, its parameters and FLOPs per token.

    FLOPs are those of the forward pass by its definition, two per multiplication and addition in
    matrix products and state updates; a training step takes about three times as many.

    \b
    Example: ldru-study models show transformer --set positions=rope --task cycle_navigation
    """
    from ldru_study.spec.model import MODEL_CONFIGS
    from ldru_study.tasks.registry import find_task

    trial = _trial(kind, changes, task)
    found, config = find_task(task), trial.model
    sizes = (found.num_symbols, found.num_classes)
    summary, _, rest = (MODEL_CONFIGS[kind].__doc__ or "").partition("\n")
    source = " ".join(rest.partition("Source: ")[2].split())
    fields = [
        _field_row(name, field, getattr(config, name))
        for name, field in MODEL_CONFIGS[kind].model_fields.items()
        if name != "kind"
    ]
    flops = [
        {"length": length, "flops_per_token": round(config.num_flops(length, *sizes) / length)}
        for length in lengths
    ]
    count = config.num_parameters(*sizes)
    if as_json:
        print_json(
            {
                "kind": kind,
                "summary": summary,
                "source": source or None,
                "fields": fields,
                "task": task,
                "num_parameters": count,
                "flops": flops,
            }
        )
        return
    facts = [
        ("source", source),
        ("parameters", f"{count:,} for {sizes[0]} symbols, {sizes[1]} classes"),
        *(
            ("FLOPs", f"{row['flops_per_token']:,} per token at length {row['length']:,}")
            for row in flops
        ),
    ]
    click.echo(f"{kind}: {summary}")
    for name, text in facts:
        if text:
            click.echo(f"  {name:<10}  {text}")
    if fields:
        rows = [[_in_words(value) for value in row.values()] for row in fields]
        print_table(("field", "value", "default", "known", "meaning"), rows)


def _trial(kind: str, changes: tuple[str, ...], task: str) -> TrialConfig:
    """Return a trial with the model that is asked for.

    Raises:
        SpecError: with every problem.
    """
    import yaml
    from pydantic import ValidationError

    from ldru_study.errors import SpecError
    from ldru_study.spec.paths import format_place
    from ldru_study.spec.problems import problems_of
    from ldru_study.spec.trial import TrialConfig
    from ldru_study.spec.yaml_file import parse_scalar

    fields: dict[str, Any] = {"kind": kind}
    problems = []
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals or name.strip() == "kind":
            problems.append(f"--set {change}: no field=value of the model. Write --set width=32.")
            continue
        try:
            fields[name.strip()] = parse_scalar(value)
        except yaml.YAMLError:
            problems.append(f"--set {change}: {value!r} is not YAML. Quote the whole argument.")
    trial = None
    try:
        trial = TrialConfig.model_validate({"task": task, "model": fields})
    except ValidationError as error:
        problems += [f"{format_place(at)}: {text}" for at, text in problems_of(error, TrialConfig)]
    if problems or trial is None:
        raise SpecError(f"models show {kind}", problems)
    return trial


def _field_row(name: str, field: FieldInfo, value: Any) -> dict[str, Any]:
    if get_origin(field.annotation) is Literal:
        known = list(get_args(field.annotation))
    else:
        known = [False, True] if field.annotation is bool else []
    return {
        "field": name,
        "value": value,
        "default": field.default,
        "known": known,
        "meaning": field.description,
    }


def _in_words(value: Any) -> str | None:
    if isinstance(value, list):
        return ", ".join(_in_words(one) or "" for one in value)
    # as it is written in a study
    return str(value).lower() if isinstance(value, bool) else value


@models.command("verify")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def verify(file: Path, as_json: bool) -> None:
    """Compare logits and gradients of an ldru in an .npz file with ours; exit code 4 above 1e-4.

    For every operator the file has '<operator>/param/<name>', the weights by our names, and for
    every length '<operator>/L<T>/tokens' [B, T] with '.../logits' [B, C], '.../grad/<name>' of the
    mean cross-entropy with '.../labels' [B], or both. The lone-node rule is zero_left, and we
    compute in float32. Errors are relative to the largest number of each array. What cannot be
    compared is named, with exit code 2, beside what can.

    Of operator grc both forms of gelu are tried, and the one that agrees best is named; 'grc/gelu'
    may say which it is, 'exact' or 'tanh'.

    \b
    Example: ldru-study models verify reference.npz --json
    """
    from ldru_study.models.verify import TOLERANCE, verify_ldru

    compared, problems = verify_ldru(file)
    rows = []
    for one in compared:
        worst = max(one.gradient_error, key=one.gradient_error.__getitem__, default=None)
        rows.append(
            {
                "operator": one.operator,
                "gelu": one.gelu,
                "length": one.length,
                "num_strings": one.num_strings,
                "logits_error": _finite(one.logits_error),
                "gradient_error": _finite(one.gradient_error[worst]) if worst else None,
                "worst_gradient": worst,
                "is_within": one.largest_error <= TOLERANCE,
                "gelu_errors": {form: _finite(error) for form, error in one.gelu_errors.items()},
            }
        )
    largest = max(one.largest_error for one in compared)
    if as_json:
        print_json(
            {
                "tolerance": TOLERANCE,
                "largest_error": _finite(largest),
                "comparisons": rows,
                "problems": problems,
            }
        )
    else:
        columns = (
            *("operator", "gelu", "length", "strings", "logits", "gradients", "worst"),
            "within 1e-4",
        )
        shown = [
            [f"{value:.1e}" if isinstance(value, float) else value for value in row.values()]
            for row in ({key: row[key] for key in list(row)[: len(columns)]} for row in rows)
        ]
        print_table(columns, shown, right=columns[2:6])
    conclude_check(file, problems, is_right=largest <= TOLERANCE)


def _finite(error: float | None) -> float | None:
    """Return what JSON can say: nothing where our numbers are not finite, or none are given."""
    return error if error is not None and math.isfinite(error) else None
