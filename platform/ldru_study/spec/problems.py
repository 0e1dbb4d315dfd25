"""Pydantic's findings in the words of this house: the place, the value, what was meant."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ldru_study.errors import did_you_mean, unknown_name
from ldru_study.spec.engine import ENGINE_CONFIGS
from ldru_study.spec.model import MODEL_CONFIGS
from ldru_study.spec.paths import Place, describe
from ldru_study.spec.search import DIMENSIONS

_WANTED = {
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "mapping_type": "a mapping",
    "model_attributes_type": "a mapping",
    "model_type": "a mapping",
    "string_type": "text",
    "tuple_type": "a list",
    "finite_number": "a finite number",
}
_COMPARED = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}

# what has variants, by the last name of its place
_VARIANTS: dict[str, Mapping[str, type[BaseModel]]] = {
    "model": MODEL_CONFIGS,
    "engine": ENGINE_CONFIGS,
}
_KINDS = MODEL_CONFIGS | ENGINE_CONFIGS | DIMENSIONS


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[tuple[Place, str]]:
    """Return one (place, message) for each finding; places are those of the file."""
    found = []
    for detail in error.errors(include_url=False):
        place = tuple(step for step in detail["loc"] if step not in _union_tags(detail["loc"]))
        found.append(_problem(detail, place, model))
    return found


def _union_tags(place: Place) -> set[str | int]:
    # pydantic names the branch of a union after its discriminator: ('model', 'ldru', 'operator')
    # and ('search', 'space', 'train.steps', 'integer', 'low')
    tags: set[str | int] = {
        step for before, step in itertools.pairwise(place) if step in _VARIANTS.get(str(before), {})
    }
    if place[:2] == ("search", "space") and len(place) > 3 and place[3] in DIMENSIONS:
        tags.add(place[3])
    return tags


def _problem(detail: ErrorDetails, place: Place, model: type[BaseModel]) -> tuple[Place, str]:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    name = str(place[-1]) if place else ""
    of_space = place[:2] == ("search", "space")
    what = "dimension" if of_space else name
    kinds = DIMENSIONS if of_space else _VARIANTS.get(name, {})
    special: dict[str, Callable[[], tuple[Place, str]]] = {
        "extra_forbidden": lambda: (place, _unknown_field(detail["loc"], name, model)),
        "missing": lambda: (place[:-1], f"the field '{name}' is missing. Add it."),
        "literal_error": lambda: (place, _literal(name, value, context)),
        "union_tag_invalid": lambda: (
            (*place, "kind"),
            unknown_name(what, str(context.get("tag")), sorted(kinds)),
        ),
        "union_tag_not_found": lambda: (
            place,
            f"the field 'kind' is missing. Add one of: {', '.join(sorted(kinds))}.",
        ),
        "value_error": lambda: (place, f"{_sentence(str(context.get('error')))}"),
    }
    if kind in special:
        return special[kind]()
    if kind in _WANTED:
        return place, f"wants {_WANTED[kind]}, found {describe(value)}.{_hint(kind, value)}"
    if kind in _COMPARED:
        key, words = _COMPARED[kind]
        return place, f"must be {words} {context[key]}, found {describe(value)}."
    if kind == "too_short":
        return place, "is an empty list. Give at least one value."
    if kind == "string_pattern_mismatch":
        return place, (
            f"{describe(value)} is no name. Use letters, digits, '-' and '_', at most 64, "
            "beginning with a letter or digit."
        )
    return place, f"{_sentence(detail['msg'])} Found {describe(value)}."


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?")) else f"{text}."


def _hint(kind: str, value: Any) -> str:
    if isinstance(value, str) and kind in {"int_type", "float_type"}:
        plain = value.replace("_", "").replace(",", "")
        try:
            float(plain)
        except ValueError:
            return ""
        return f" Write {plain}, without quotes."
    if kind in {"tuple_type", "list_type"} and isinstance(value, (str, int, float)):
        return f" Write [{value}]."
    return ""


def _literal(name: str, value: Any, context: dict[str, Any]) -> str:
    known = [word.strip(" '") for word in str(context["expected"]).replace(" or ", ", ").split(",")]
    if not isinstance(value, str):
        return f"wants one of {', '.join(known)}, found {describe(value)}."
    return unknown_name(name.replace("_", " "), value, known)


def _unknown_field(place: Place, name: str, model: type[BaseModel]) -> str:
    known = _fields_at(place[:-1], model)
    guess = did_you_mean(name, known)
    return " ".join(
        part
        for part in (
            f"no field is called '{name}'.",
            guess or (f"Fields: {', '.join(known)}." if known else ""),
        )
        if part
    )


def _fields_at(place: Place, model: type[BaseModel]) -> list[str]:
    current: type[BaseModel] = model
    for step in place:
        if step in _KINDS:
            current = _KINDS[str(step)]
        elif isinstance(step, str) and step in current.model_fields:
            current = _model_in(current.model_fields[step].annotation) or current
    return sorted(current.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(part) for part in get_args(annotation))
    return next((model for model in found if model is not None), None)
