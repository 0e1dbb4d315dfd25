"""One trial: everything that decides its weights, and the id made of exactly that."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from ldru_study.errors import StudyError
from ldru_study.spec.model import ModelConfig, Share
from ldru_study.spec.strict import Strict
from ldru_study.spec.task import as_task_text
from ldru_study.tasks.registry import find_task
from ldru_study.tasks.samplers import Sampling, sampler_of

# raise by hand when the same configuration would train to other weights, or a default changes
RECIPE = 1

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

    task: Annotated[str, BeforeValidator(as_task_text)]
    sampling: Sampling = "balanced"
    model: ModelConfig
    train: TrainConfig = TrainConfig()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @field_validator("sampling")
    @classmethod
    def _task_is_sampled_so(cls, sampling: Sampling, info: ValidationInfo) -> Sampling:
        # without a task there is another problem to tell
        if "task" in info.data:
            try:
                sampler_of(info.data["task"], sampling)
            except StudyError as error:
                # pydantic adds the place to values that are refused so
                raise ValueError(str(error)) from None
        return sampling

    @property
    def trial_id(self) -> str:
        """16 hexadecimal digits that name these weights, in every study and on every machine.

        Fields that hold their default do not enter, so that a new field whose default is today's
        behaviour leaves every stored trial valid; a test pins what the defaults are. Of a task of
        the user's own enters the smallest automaton, not how it was written.
        """
        decides = self.model_dump(mode="json", exclude_defaults=True)
        decides |= {"task": find_task(self.task).identity, "recipe": RECIPE}
        text = json.dumps(decides, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]
