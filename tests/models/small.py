"""Every registered kind of model in small, with every value of its axes, and strings for it."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

import torch
from pydantic import TypeAdapter

from ldru_study.models.registry import build_model
from ldru_study.spec.model import MODEL_CONFIGS, ModelConfig

ADAPTER: TypeAdapter[Any] = TypeAdapter(ModelConfig)
NUM_SYMBOLS, NUM_CLASSES = 3, 4
# sizes that keep a test quick, wherever a kind has a field of this name
_SMALL = {"width": 8, "layers": 2, "heads": 2, "state": 6, "matrices": 3}
# numbers that change what is computed
_OTHER = {"householders": 2, "node_noise": 0.5, "window": 3}
# fields that only go with another one's value
_GOES_WITH = {"gelu": {"operator": "grc"}}


def _variants(kind: str) -> list[dict[str, Any]]:
    fields = MODEL_CONFIGS[kind].model_fields
    base = {"kind": kind} | {name: size for name, size in _SMALL.items() if name in fields}
    found = [base]
    for name, field in fields.items():
        values: tuple[Any, ...] = ()
        if get_origin(field.annotation) is Literal:
            values = get_args(field.annotation)
        elif field.annotation is bool:
            values = (False, True)
        elif name in _OTHER:
            values = (_OTHER[name],)
        needed = _GOES_WITH.get(name, {})
        others = [value for value in values if value not in (field.default, kind)]
        found += [base | needed | {name: value} for value in others]
    return found


CONFIGS = [config for kind in MODEL_CONFIGS for config in _variants(kind)]


def name_of(config: dict[str, Any]) -> str:
    shown = {name: value for name, value in config.items() if name not in _SMALL}
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
