"""One trial: everything that decides its weights, and the id made of exactly that."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from ldru_study.errors import UnknownNameError
from ldru_study.spec.model import ModelConfig, matched
from ldru_study.spec.sizes import Share
from ldru_study.spec.strict import Strict
from ldru_study.tasks.registry import find_task

# raise by hand when the same configuration would train to other weights, or a default changes
RECIPE = 1

Sampling = Literal["balanced"]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class TrainConfig(Strict):
    """How a model is trained. Defaults follow arXiv 2605.26035 where it has a say."""

    max_length: Count = Field(40, description="longest training length in tokens; multiple 1")
    min_length: Count = Field(1, description="shortest training length in tokens")
    steps: Count = Field(20_000, description="optimiser steps")
    batch_size: Count = Field(256, description="strings per step")
    lengths_per_batch: Count = Field(
        1, description="distinct draws of a length in one batch; divides batch_size"
    )
    optimizer: Literal["adamw", "amsgrad"] = "adamw"
    learning_rate: Positive = Field(1e-3, description="peak, reached after the warm-up")
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup: Share = Field(0.2, description="share of the steps that raise the rate linearly")
    schedule: Literal["constant", "cosine"] = Field("constant", description="after the warm-up")
    clip_norm: Positive | None = Field(1.0, description="largest gradient norm; null: no clipping")

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        if self.min_length > self.max_length:
            raise ValueError(f"min_length {self.min_length} is above max_length {self.max_length}")
        if self.batch_size % self.lengths_per_batch:
            raise ValueError(
                f"lengths_per_batch {self.lengths_per_batch} does not divide "
                f"batch_size {self.batch_size}"
            )
        return self


class TrialConfig(Strict):
    """One concrete configuration with one seed: the unit of resume, of caching and of rows."""

    task: str
    sampling: Sampling = "balanced"
    model: ModelConfig
    train: TrainConfig = TrainConfig()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @field_validator("task")
    @classmethod
    def _task_exists(cls, name: str) -> str:
        try:
            found: str = find_task(name).name
        except UnknownNameError as error:
            # pydantic adds the place to values that are refused so
            raise ValueError(str(error)) from None
        return found

    @field_validator("model")
    @classmethod
    def _width_is_decided(cls, model: ModelConfig, info: ValidationInfo) -> ModelConfig:
        if "task" not in info.data:
            return model
        task = find_task(info.data["task"])
        return matched(model, task.num_symbols, task.num_classes)

    def as_asked(self) -> dict[str, Any]:
        """Return all fields as plain data, but no width where ``match_parameters`` decides it."""
        raw = self.model_dump(mode="python")
        if raw["model"].get("match_parameters") is not None:
            del raw["model"]["width"]
        return raw

    @property
    def trial_id(self) -> str:
        """16 hexadecimal digits that name these weights, in every study and on every machine.

        Fields that hold their default do not enter, so that a new field whose default is today's
        behaviour leaves every stored trial valid; a test pins what the defaults are. Of a width
        it does not matter whether it was given or found by ``match_parameters``.
        """
        decides = self.model_dump(mode="json", exclude_defaults=True) | {"recipe": RECIPE}
        decides["model"].pop("match_parameters", None)
        text = json.dumps(decides, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]
