"""`models`: what a study can name."""

from __future__ import annotations

from typing import Any

import click

from ldru_study.cli.group import StudyGroup, json_option, print_json, print_table


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
