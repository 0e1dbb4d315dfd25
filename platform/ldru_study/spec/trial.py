"""One trial: everything that decides its weights, and the id made of exactly that."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from ldru_study.errors import StudyError
from ldru_study.spec.engine import DeepSpeedEngine, EngineConfig, PlainEngine
from ldru_study.spec.model import LdruConfig, ModelConfig, matched
from ldru_study.spec.sizes import Share
from ldru_study.spec.strict import Strict
from ldru_study.spec.task import as_task_text
from ldru_study.tasks.registry import find_task
from ldru_study.tasks.samplers import Sampling, sampler_of

# raise by hand when the same configuration would train to other weights, or a default changes
RECIPE = 2

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class CurriculumConfig(Strict):
    """Short strings first: the longest training length doubles in steps of equal duration.

    It begins at ``start_length`` and reaches ``train.max_length`` after ``share`` of the steps.
    """

    start_length: Count = Field(description="longest length of the first steps, in tokens")
    share: Share = Field(0.5, description="share of the steps before all lengths are drawn")


class TrainConfig(Strict):
    """How a model is trained. Defaults follow arXiv 2605.26035 where it has a say.

    Two do not: there optimizer is amsgrad and gradient_centralisation is on.
    """

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
    gradient_centralisation: bool = Field(
        False, description="subtract from the gradient of every matrix the mean of each of its rows"
    )
    clip_norm: Positive | None = Field(1.0, description="largest gradient norm; null: no clipping")
    curriculum: CurriculumConfig | None = Field(None, description="short strings first")
    associativity_penalty: Annotated[float, Field(ge=0)] = Field(
        0.0, description="weight of the associativity defect in the loss of an ldru"
    )
    engine: EngineConfig = Field(PlainEngine(), description="how the steps are carried out")
    sequence_parallel: Count = Field(
        1, description="workers that share each string of an ldru; a power of two"
    )
    data_parallel: Count = Field(
        1, description="groups of sequence_parallel workers that share each batch"
    )

    @property
    def workers(self) -> int:
        """How many processes train one trial."""
        return self.sequence_parallel * self.data_parallel

    @property
    def strings_at_once(self) -> int:
        """How many strings go through a worker's model at once, as long as memory allows."""
        return self.batch_size // self.data_parallel // self.engine.gradient_accumulation

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        if self.min_length > self.max_length:
            raise ValueError(f"min_length {self.min_length} is above max_length {self.max_length}")
        if self.batch_size % self.lengths_per_batch:
            raise ValueError(
                f"lengths_per_batch {self.lengths_per_batch} does not divide "
                f"batch_size {self.batch_size}"
            )
        if self.curriculum is not None and self.curriculum.start_length > self.max_length:
            raise ValueError(
                f"curriculum.start_length {self.curriculum.start_length} is above "
                f"max_length {self.max_length}"
            )
        return self

    @model_validator(mode="after")
    def _workers_fit(self) -> Self:
        k, d = self.sequence_parallel, self.data_parallel
        if k & (k - 1):
            raise ValueError(
                f"sequence_parallel {k} is no power of two: every worker reduces one complete "
                f"subtree. Use {1 << (k.bit_length() - 1)} or {1 << k.bit_length()}"
            )
        if (num_chunks := num_chunks_of(self.max_length, k)) < k:
            raise ValueError(
                f"sequence_parallel {k}: strings of at most max_length {self.max_length} have "
                f"{num_chunks} chunks, so that {k - num_chunks} workers would have nothing to do. "
                "Lower it, or train on longer strings"
            )
        if self.batch_size % d:
            raise ValueError(
                f"data_parallel {d} does not divide batch_size {self.batch_size}: every worker "
                "must weigh the same"
            )
        share, parts = self.batch_size // d, self.engine.gradient_accumulation
        if share % parts:
            raise ValueError(
                f"engine.gradient_accumulation {parts} does not divide the {share} strings "
                f"of a worker (batch_size {self.batch_size} / data_parallel {d})"
            )
        return self


def num_chunks_of(length: int, num_workers: int) -> int:
    """Return how many of ``num_workers`` have tokens of a string of ``length``.

    All chunks but the last are of one size: the smallest power of two that suffices.
    """
    size = 1 << (-(-length // num_workers) - 1).bit_length()
    return -(-length // size)


# fields that say how a training is carried out: they move rounding errors, no more
_CARRIED_OUT: dict[str, Any] = {
    "train": {
        "engine": set(DeepSpeedEngine.model_fields) - {"precision"},
        "sequence_parallel": True,
        "data_parallel": True,
    }
}


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

    @model_validator(mode="after")
    def _model_can_be_trained_so(self) -> Self:
        kind, train = self.model.kind, self.train
        if kind != "ldru" and train.sequence_parallel > 1:
            raise ValueError(
                f"train.sequence_parallel {train.sequence_parallel}: only the tree of an ldru can "
                f"be cut into chunks, not the {kind}. Use train.data_parallel, or set it in an "
                "override for model.kind ldru"
            )
        is_random = isinstance(self.model, LdruConfig) and self.model.random_brackets
        if is_random and train.sequence_parallel > 1:
            raise ValueError(
                f"train.sequence_parallel {train.sequence_parallel} gives every worker a complete "
                "subtree, and trees of model.random_brackets have none for all of them. Use "
                "train.data_parallel"
            )
        if kind != "ldru" and train.associativity_penalty:
            raise ValueError(
                f"train.associativity_penalty {train.associativity_penalty:g}: the {kind} has no "
                "operator. Leave it out, or set it in an override for model.kind ldru"
            )
        if kind != "transformer" and train.engine.activation_checkpointing:
            raise ValueError(
                "train.engine.activation_checkpointing: only a transformer has layers to "
                f"recompute, the {kind} has none (long trees recompute by themselves)"
            )
        engine = train.engine
        stage = engine.zero_stage if isinstance(engine, DeepSpeedEngine) else 0
        if stage == 3 and train.associativity_penalty:
            raise ValueError(
                "train.associativity_penalty is computed beside the forward pass, where zero_stage "
                "3 has taken the weights away. Use zero_stage 2"
            )
        if kind == "constant" and stage:
            raise ValueError(
                "train.engine.zero_stage: the constant has no weights to share out, only a bias "
                "per class. Use zero_stage 0"
            )
        return self

    @property
    def trial_id(self) -> str:
        """16 hexadecimal digits that name these weights, in every study and on every machine.

        Fields that hold their default do not enter, so that a new field whose default is today's
        behaviour leaves every stored trial valid; a test pins what the defaults are. Nor does
        how the training is carried out: a trial that one engine, or one number of workers, has
        begun may be continued by another. Of ``train.engine`` only ``precision`` enters; of a width
        it does not matter whether it was given or found by ``match_parameters``, and of a task of
        the user's own enters the smallest automaton, not how it was written.
        """
        decides = self.model_dump(mode="json", exclude_defaults=True, exclude=_CARRIED_OUT)
        decides |= {"task": find_task(self.task).identity, "recipe": RECIPE}
        decides["model"].pop("match_parameters", None)
        # empty where nothing but the excluded was set
        if "engine" in decides.get("train", {}) and not decides["train"]["engine"]:
            del decides["train"]["engine"]
        if not decides.get("train", True):
            del decides["train"]
        text = json.dumps(decides, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]
