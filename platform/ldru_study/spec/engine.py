"""How a training is carried out, as data: one configuration class per ``kind`` of engine.

Of all this only ``precision`` decides weights, so only it is part of a trial's id: the rest moves
rounding errors about, and a trial may be continued with other settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ldru_study.spec.strict import Strict

# what the model computes in; in every one of them the optimiser moves weights in fp32
Precision = Literal["bf16", "fp16", "fp32"]


class _Engine(Strict):
    precision: Precision = Field(
        "fp32",
        description="of weights and states in forward and backward pass, also at evaluation; "
        "the optimiser keeps its weights and moments in fp32",
    )
    activation_checkpointing: bool = Field(
        False, description="recompute each layer in the backward pass instead of keeping it"
    )
    gradient_accumulation: Annotated[int, Field(ge=1)] = Field(
        1, description="parts in which a worker's strings go through the model, for one step"
    )


class PlainEngine(_Engine):
    """PyTorch alone: every worker holds all weights, and gradients are averaged."""

    kind: Literal["plain"] = "plain"

    @model_validator(mode="after")
    def _needs_no_loss_scale(self) -> Self:
        if self.precision == "fp16":
            raise ValueError(
                "precision fp16 needs its loss scaled, which kind deepspeed does and kind plain "
                "does not. Use bf16, or kind deepspeed"
            )
        return self


class DeepSpeedEngine(_Engine):
    """DeepSpeed: ZeRO shares optimiser state, gradients and weights out over the workers.

    Source: Rajbhandari et al. 2020 (ZeRO).
    """

    kind: Literal["deepspeed"]
    zero_stage: Annotated[int, Field(ge=0, le=3)] = Field(
        0, description="what is shared out: 1 optimiser state, 2 also gradients, 3 also weights"
    )
    offload: Literal["cpu", "none"] = Field(
        "none", description="where optimiser state, and weights at stage 3, wait for their turn"
    )

    @model_validator(mode="after")
    def _stage_fits(self) -> Self:
        if self.offload == "cpu" and self.zero_stage == 0:
            raise ValueError("offload cpu moves what ZeRO shares out. Set zero_stage to 1, 2 or 3")
        if self.precision == "fp16" and self.zero_stage == 0:
            raise ValueError(
                "precision fp16 wants zero_stage 1, 2 or 3; with one worker, 1 is the same as 0"
            )
        return self


def _with_kind(value: Any) -> Any:
    """Read an engine without ``kind`` as a plain one, so that an axis may set a field alone."""
    is_open = isinstance(value, Mapping) and "kind" not in value
    return {"kind": "plain", **value} if is_open else value


EngineConfig = Annotated[
    Annotated[PlainEngine | DeepSpeedEngine, Field(discriminator="kind")],
    BeforeValidator(_with_kind),
]
ENGINE_CONFIGS: dict[str, type[Strict]] = {"deepspeed": DeepSpeedEngine, "plain": PlainEngine}
