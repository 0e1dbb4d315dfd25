"""Every registered kind of model in small, with every value of its axes, and strings for it."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

import torch
from pydantic import TypeAdapter, ValidationError

from ldru_study.models.registry import build_model
from ldru_study.spec.model import MODEL_CONFIGS, ModelConfig
from ldru_study.spec.sizes import ModelBase

ADAPTER: TypeAdapter[Any] = TypeAdapter(ModelConfig)
NUM_SYMBOLS, NUM_CLASSES = 3, 4


def small(made: type[ModelBase]) -> dict[str, Any]:
    return {"kind": get_args(made.model_fields["kind"].annotation)[0]} | made.small


def _variants(kind: str) -> list[dict[str, Any]]:
    made = MODEL_CONFIGS[kind]
    base = small(made)
    found = [base, *(base | variant for variant in made.variants)]
    for name, field in made.model_fields.items():
        values: tuple[Any, ...] = ()
        if get_origin(field.annotation) is Literal:
            values = get_args(field.annotation)
        elif field.annotation is bool:
            values = (False, True)
        others = [base | {name: value} for value in values if value not in (field.default, kind)]
        found += [other for other in others if not _stands_in_a_variant(name, other)]
    return found


def _stands_in_a_variant(name: str, config: dict[str, Any]) -> bool:
    """Whether a choice goes with another one only, as a variant of the kind shows."""
    made = MODEL_CONFIGS[config["kind"]]
    try:
        made(**config)
    except ValidationError:
        if all(variant.get(name) != config[name] for variant in made.variants):
            raise
        return True
    return False


CONFIGS = [config for kind in MODEL_CONFIGS for config in _variants(kind)]


def name_of(config: dict[str, Any]) -> str:
    sizes = MODEL_CONFIGS[config["kind"]].small
    shown = {name: value for name, value in config.items() if name not in sizes}
    return "-".join(
        str(value) if isinstance(value, str) else f"{name}={value}" for name, value in shown.items()
    )


def build(config, seed=0, **sizes):
    sizes = {"num_symbols": NUM_SYMBOLS, "num_classes": NUM_CLASSES} | sizes
    return build_model(ADAPTER.validate_python(config), seed=seed, **sizes).eval()


def strings(*lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(NUM_SYMBOLS, (len(lengths), max(lengths)), generator=generator)
    counts = torch.tensor(lengths)
    return tokens * (torch.arange(max(lengths)) < counts[:, None]), counts
