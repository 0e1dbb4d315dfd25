"""What a model is, as data: one configuration class per ``kind``, each with only its own fields."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ldru_study.spec.strict import Strict

Operator = Literal["elementwise_sum", "gated_sum", "grc", "linear", "mlp"]
LoneNode = Literal["carry", "identity", "left_fold", "pad_power_of_two", "zero_left", "zero_right"]
Positions = Literal["alibi", "none", "rope", "sinusoidal"]

Width = Annotated[int, Field(ge=1, le=65_536)]
Share = Annotated[float, Field(ge=0, lt=1)]


class LdruConfig(Strict):
    """Log-depth recurrent unit: a learned binary operator in a balanced tree.

    Source: arXiv 2605.26035, section 3.
    """

    kind: Literal["ldru"]
    operator: Operator = Field("mlp", description="the learned binary operator")
    width: Width = Field(64, description="state features")
    lone_node: LoneNode = Field(
        "zero_left", description="what becomes of the last node of a level with an odd count"
    )
    dropout: Share = Field(0.0, description="after the leaf block and after every merge")


class LstmConfig(Strict):
    """Long short-term memory on one-hot tokens, forget-gate bias 1."""

    kind: Literal["lstm"]
    width: Width = Field(256, description="hidden units")


class RnnConfig(Strict):
    """Elman network with ReLU on one-hot tokens."""

    kind: Literal["rnn"]
    width: Width = Field(256, description="hidden units")


class TransformerConfig(Strict):
    """Post-norm Transformer encoder with full attention, read at the last token."""

    kind: Literal["transformer"]
    width: Width = Field(64, description="state features; a multiple of heads")
    layers: Annotated[int, Field(ge=1, le=128)] = 5
    heads: Annotated[int, Field(ge=1, le=128)] = 8
    positions: Positions = Field("sinusoidal", description="how a token knows its place")
    dropout: Share = 0.0

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.positions == "rope" and (self.width // self.heads) % 2:
            raise ValueError(
                f"positions 'rope' rotates pairs: width / heads = {self.width // self.heads} is odd"
            )
        if self.positions == "sinusoidal" and self.width % 2:
            raise ValueError(f"positions 'sinusoidal' comes in pairs: width {self.width} is odd")
        return self


class ConstantConfig(Strict):
    """A learned bias that ignores its input: chance itself, and the platform's own overhead."""

    kind: Literal["constant"]


ModelConfig = Annotated[
    LdruConfig | LstmConfig | RnnConfig | TransformerConfig | ConstantConfig,
    Field(discriminator="kind"),
]
MODEL_CONFIGS: dict[str, type[Strict]] = {
    "constant": ConstantConfig,
    "ldru": LdruConfig,
    "lstm": LstmConfig,
    "rnn": RnnConfig,
    "transformer": TransformerConfig,
}
# the field that a reader wants to see beside the kind, whatever else varies
HEADLINE_FIELDS = {"ldru": "operator", "transformer": "positions"}
