"""How large a stored configuration's model is and what a token costs it, without building it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter

from ldru_study.errors import UnknownNameError
from ldru_study.spec.model import ModelConfig, matched
from ldru_study.tasks.registry import find_task

_MODEL: TypeAdapter[ModelConfig] = TypeAdapter(ModelConfig)


@dataclass(frozen=True)
class ModelSize:
    """The size of a model for its task.

    Args:
        num_parameters: how many numbers training can change.
        flops_per_token: of the forward pass over one string of the longest training length,
            divided by that length and rounded; see `ldru_study.spec.sizes`.
    """

    num_parameters: int
    flops_per_token: int


def size_of(config: Mapping[str, Any]) -> ModelSize | None:
    """Return the size of the model in a trial's configuration as plain data.

    None where a task, a model or ``train.max_length`` is missing, or is none that this version
    knows: a store also holds what other versions wrote.
    """
    try:
        task, model, length = config["task"], config["model"], config["train"]["max_length"]
    except (KeyError, TypeError):
        return None
    if not isinstance(task, str) or not isinstance(length, int) or length < 1:
        return None
    return _size(task, json.dumps(model, sort_keys=True), length)


# the cells of a grid share few models
@lru_cache(maxsize=4096)
def _size(task: str, model: str, length: int) -> ModelSize | None:
    try:
        found = find_task(task)
        sizes = found.num_symbols, found.num_classes
        config = matched(_MODEL.validate_json(model), *sizes)
    # pydantic's own error is a ValueError as well
    except (UnknownNameError, ValueError):
        return None
    flops = config.num_flops(length, *sizes)
    return ModelSize(config.num_parameters(*sizes), round(flops / length))
