"""What every model's configuration can say about its size, and the terms that sizes are made of.

A count of parameters is exact. A count of FLOPs is that of the forward pass as it is defined, for
recurrences their sequential form: two per multiplication and addition in matrix products and state
updates; norms, activations and softmaxes are left out. V symbols, C classes, T tokens.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from ldru_study.spec.strict import Strict

MAX_WIDTH = 65_536
Width = Annotated[int, Field(ge=1, le=MAX_WIDTH)]
Layers = Annotated[int, Field(ge=1, le=128)]
Heads = Annotated[int, Field(ge=1, le=128)]
Share = Annotated[float, Field(ge=0, lt=1)]


class ModelBase(Strict, ABC):
    """A model's configuration, which knows its size for every task."""

    # the field that a reader wants to see beside the kind, whatever else varies
    headline: ClassVar[str | None] = None
    # sizes that keep a test quick
    small: ClassVar[dict[str, Any]] = {}
    # what a test must try besides every choice and every switch by itself: numbers that change
    # what is computed, choices that need another one
    variants: ClassVar[tuple[dict[str, Any], ...]] = ()
    kind: str

    @abstractmethod
    def num_parameters(self, num_symbols: int, num_classes: int) -> int:
        """Return how many numbers training can change, for V symbols and C classes."""

    @abstractmethod
    def num_flops(self, length: int, num_symbols: int, num_classes: int) -> int:
        """Return the FLOPs of one string of ``length`` tokens; see `ldru_study.spec.sizes`."""


class WidthBase(ModelBase):
    """A configuration with a width, given or decided by ``match_parameters``."""

    small: ClassVar[dict[str, Any]] = {"width": 8}
    width: Width = Field(64, description="state features")
    match_parameters: Annotated[int, Field(ge=1)] | None = Field(
        None, description="in place of width: the one that gives this many parameters, within 5 %"
    )

    @property
    def width_step(self) -> int:
        """Widths come in multiples of this."""
        return 1

    @property
    def is_width_open(self) -> bool:
        """Whether ``match_parameters`` is yet to decide the width."""
        return self.match_parameters is not None and "width" not in self.model_fields_set


class HeadsBase(WidthBase):
    """A configuration whose features are shared out over heads.

    A kind names its ``heads`` itself, in its own order of fields and with its own default.
    """

    small: ClassVar[dict[str, Any]] = {"width": 8, "heads": 2}
    # what is shared out, in multiples of the width
    expansion: ClassVar[int] = 1
    if TYPE_CHECKING:
        heads: int

    @property
    def width_step(self) -> int:
        """Widths come in multiples of this."""
        return self.heads // math.gcd(self.expansion, self.heads)

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if not self.is_width_open and self.expansion * self.width % self.heads:
            times = f"{self.expansion} * " if self.expansion > 1 else ""
            raise ValueError(f"{times}width {self.width} is not a multiple of heads {self.heads}")
        return self


def affine(num_in: int, num_out: int) -> int:
    """Return the parameters of a matrix and a bias."""
    return (num_in + 1) * num_out


def norm(width: int) -> int:
    """Return the parameters of a layer norm: scale and offset."""
    return 2 * width


def feed_forward(width: int) -> int:
    """Return the parameters of an FFN, E -> 4E -> E."""
    return affine(width, 4 * width) + affine(4 * width, width)


def product(num_in: int, num_out: int, num_rows: int = 1) -> int:
    """Return the FLOPs of a matrix product for each of ``num_rows`` vectors."""
    return 2 * num_rows * num_in * num_out


def feed_forward_flops(width: int, num_rows: int) -> int:
    """Return the FLOPs of an FFN, E -> 4E -> E."""
    return 2 * product(width, 4 * width, num_rows)
