"""Configurations of the models whose state is an affine function of the state before it."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ldru_study.spec.sizes import (
    Heads,
    HeadsBase,
    Layers,
    Share,
    Width,
    WidthBase,
    affine,
    feed_forward,
    feed_forward_flops,
    norm,
    product,
)

# taps of the depthwise convolutions
TAPS = 4

NegativeEigenvalues = Annotated[
    bool, Field(description="transitions with eigenvalues in (-1, 1) instead of (0, 1)")
]


class S5Config(WidthBase):
    """State-space model: a diagonal complex state with fixed transitions, then gelu and norm.

    Source: Smith et al. 2023, arXiv 2208.04933.
    """

    small: ClassVar[dict[str, Any]] = {"width": 8, "layers": 2, "state": 6}
    kind: Literal["s5"]
    width: Width = Field(64, description="features between the layers")
    layers: Layers = Field(2, description="blocks")
    state: Annotated[int, Field(ge=2, le=65_536, multiple_of=2)] = Field(
        256, description="state features of a block, in conjugate pairs: even"
    )
    dropout: Share = Field(0.0, description="after every gelu")

    def num_parameters(self, num_symbols: int, num_classes: int) -> int:
        """See `ModelBase`; a complex parameter is two."""
        width, pairs = self.width, self.state // 2
        layer = 3 * pairs + 4 * pairs * width + width + norm(width)
        return num_symbols * width + self.layers * layer + affine(width, num_classes)

    def num_flops(self, length: int, num_symbols: int, num_classes: int) -> int:
        """See `ModelBase`."""
        width, pairs = self.width, self.state // 2
        layer = 2 * product(width, 2 * pairs, length) + length * (8 * pairs + 2 * width)
        return self.layers * layer + product(width, num_classes)


class SdSsmConfig(WidthBase):
    """State-space model whose dense transition is chosen from a dictionary by the token.

    Source: Terzic et al. 2025, arXiv 2412.19350.
    """

    small: ClassVar[dict[str, Any]] = {"width": 8, "matrices": 3}
    kind: Literal["sd_ssm"]
    matrices: Annotated[int, Field(ge=1, le=1024)] = Field(
        8, description="transitions in the dictionary"
    )
    normalise: Literal["column", "row"] = Field(
        "column",
        description="what of a transition has norm 1: column as published, row as in a released "
        "port",
    )

    def num_parameters(self, num_symbols: int, num_classes: int) -> int:
        """See `ModelBase`."""
        width = self.width
        transitions = width * self.matrices + self.matrices * width**2
        around = num_symbols * width + width**2 + norm(width)
        return around + transitions + affine(width, num_classes)

    def num_flops(self, length: int, num_symbols: int, num_classes: int) -> int:
        """See `ModelBase`."""
        width = self.width
        choice = product(width, self.matrices, length) + product(self.matrices, width**2, length)
        return choice + 2 * product(width, width, length) + product(width, num_classes)


class DeltaNetConfig(HeadsBase):
    """Linear attention whose state is changed by generalised Householder products, pre-norm.

    Source: Yang et al. 2024, arXiv 2406.06484; negative eigenvalues Grazzi et al. 2024, arXiv
    2411.12537; several products per token Siems et al. 2025, arXiv 2502.10297.
    """

    small: ClassVar[dict[str, Any]] = {"width": 8, "layers": 2, "heads": 2}
    variants = ({"householders": 2},)
    kind: Literal["deltanet"]
    width: Width = Field(64, description="features between the layers; a multiple of heads")
    layers: Layers = Field(2, description="blocks of recurrence and FFN")
    heads: Heads = Field(4, description="states of a block")
    householders: Annotated[int, Field(ge=1, le=64)] = Field(1, description="products per token")
    negative_eigenvalues: NegativeEigenvalues = False

    def num_parameters(self, num_symbols: int, num_classes: int) -> int:
        """See `ModelBase`."""
        width, products = self.width, self.householders
        # queries, keys and values, each with its convolution
        maps = (1 + 2 * products) * (width**2 + TAPS * width)
        strengths = affine(width, products * self.heads)
        read = width // self.heads + width**2
        layer = maps + strengths + read + 2 * norm(width) + feed_forward(width)
        around = num_symbols * width + norm(width)
        return around + self.layers * layer + affine(width, num_classes)

    def num_flops(self, length: int, num_symbols: int, num_classes: int) -> int:
        """See `ModelBase`."""
        width, products = self.width, self.householders
        maps = (1 + 2 * products) * (product(width, width) + product(TAPS, width))
        strengths = product(width, products * self.heads)
        # reading the old value under a key, writing the new one; then reading under the query
        state = (2 * products + 1) * product(width, width // self.heads)
        layer = length * (maps + strengths + state + product(width, width))
        layer += feed_forward_flops(width, length)
        return self.layers * layer + product(width, num_classes)


class Mamba2Config(HeadsBase):
    """Selective state-space model: one decay per head and token, pre-norm.

    Source: Dao and Gu 2024, arXiv 2405.21060; negative eigenvalues Grazzi et al. 2024, arXiv
    2411.12537.
    """

    expansion = 2
    small: ClassVar[dict[str, Any]] = {"width": 8, "layers": 2, "heads": 2, "state": 6}
    kind: Literal["mamba2"]
    width: Width = Field(
        64, description="features between the layers; 2 width: a multiple of heads"
    )
    layers: Layers = Field(2, description="blocks")
    heads: Heads = Field(8, description="states of a block")
    state: Annotated[int, Field(ge=1, le=65_536)] = Field(
        64, description="state features per feature of a head"
    )
    negative_eigenvalues: NegativeEigenvalues = False

    def num_parameters(self, num_symbols: int, num_classes: int) -> int:
        """See `ModelBase`."""
        width, inner = self.width, 2 * self.width
        convolved = inner + 2 * self.state
        maps = width * (inner + convolved + self.heads) + inner * width
        # a bias of the steps, a decay and a skip per head
        layer = maps + (TAPS + 1) * convolved + 3 * self.heads + inner + norm(width)
        around = num_symbols * width + norm(width)
        return around + self.layers * layer + affine(width, num_classes)

    def num_flops(self, length: int, num_symbols: int, num_classes: int) -> int:
        """See `ModelBase`."""
        width, inner = self.width, 2 * self.width
        convolved = inner + 2 * self.state
        maps = product(width, inner + convolved + self.heads) + product(inner, width)
        # a decay and an outer product, then a read
        state = 3 * inner * self.state + product(self.state, inner) + product(1, inner)
        layer = length * (maps + product(TAPS, convolved) + state)
        return self.layers * layer + product(width, num_classes)
