"""What a model is, as data: one configuration class per ``kind``, each with only its own fields.

A kind is registered by its class: whatever class here, or in `linear_recurrences`, has a literal
``kind``. The file ``ldru_study/models/<kind>.py`` has the module of that name: ``GruConfig`` there
is ``Gru``.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable
from functools import reduce
from operator import or_
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    Self,
    TypeAlias,
    TypeVar,
    get_args,
    get_origin,
)

from pydantic import Field, model_validator

from ldru_study.spec import linear_recurrences
from ldru_study.spec.sizes import (
    MAX_WIDTH,
    Heads,
    HeadsBase,
    Layers,
    ModelBase,
    Share,
    Width,
    WidthBase,
    affine,
    feed_forward,
    feed_forward_flops,
    norm,
    product,
)

# what each operator owns: the sides of every tensor in multiples of the width, as ldru_kernels has
# them; a merge multiplies by every matrix once
OPERATORS: dict[str, tuple[tuple[int, ...], ...]] = {
    "elementwise_sum": (),
    "gated_sum": ((2, 1), (1,)),
    "grc": ((2, 4), (4,), (4, 4), (4,), (1,), (1,)),
    "linear": ((2, 1), (1,)),
    "mlp": (
        *((2, 2), (2,), (2, 4), (4,), (4, 2), (2,)),
        *((1, 1), (1, 1), (1,), (1,), (1, 1), (1,)),
    ),
}
if TYPE_CHECKING:
    Operator: TypeAlias = str
else:
    Operator = Literal[tuple(OPERATORS)]
Gelu = Literal["exact", "tanh"]
LoneNode = Literal["carry", "identity", "left_fold", "pad_power_of_two", "zero_left", "zero_right"]
Positions = Literal["alibi", "none", "relative", "rope", "sinusoidal"]

# how far a matched count of parameters may be from what was asked
_MATCH_TOLERANCE = 0.05


class LdruConfig(WidthBase):
    """Log-depth recurrent unit: a learned binary operator in a balanced tree.

    Source: arXiv 2605.26035, section 3.
    """

    headline = "operator"
    variants = ({"operator": "grc", "gelu": "tanh"}, {"node_noise": 0.5})
    kind: Literal["ldru"]
    operator: Operator = Field("mlp", description="the learned binary operator")
    gelu: Gelu = Field(
        "exact", description="form of the gelu in operator grc: exact, torch's; tanh, JAX's default"
    )
    lone_node: LoneNode = Field(
        "zero_left", description="what becomes of the last node of a level with an odd count"
    )
    dropout: Share = Field(0.0, description="after the leaf block and after every merge")
    node_noise: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description=(
            "standard deviation of Gaussian noise on the state after every merge, in training"
        ),
    )
    random_brackets: bool = Field(
        False, description="in training, pairs begin at the first or second node of a level"
    )

    @model_validator(mode="after")
    def _gelu_is_used(self) -> Self:
        if self.gelu != "exact" and self.operator != "grc":
            raise ValueError(
                f"gelu '{self.gelu}': operator {self.operator} has none. Leave it out, or use "
                "operator grc"
            )
        return self

    @model_validator(mode="after")
    def _brackets_can_be_random(self) -> Self:
        if self.random_brackets and self.lone_node == "left_fold":
            raise ValueError(
                "random_brackets: lone_node 'left_fold' cuts the tokens into blocks and has no "
                "levels whose pairs could begin elsewhere. Use lone_node 'carry', which adds "
                "nothing to the tokens either"
            )
        return self

    def num_parameters(self, num_symbols: int, num_classes: int) -> int:
        """See `ModelBase`."""
        width = self.width
        around = num_symbols * width + 2 * norm(width) + 2 * feed_forward(width)
        identity = width if self.lone_node == "identity" else 0
        return around + self._operator() + identity + affine(width, num_classes)

    def num_flops(self, length: int, num_symbols: int, num_classes: int) -> int:
        """See `ModelBase`; equal subtrees of tokens count as often as they stand there.

        With random brackets this is the tree of an evaluation.
        """
        width = self.width
        matrices = [sides for sides in OPERATORS[self.operator] if len(sides) == 2]
        merge = sum(product(rows * width, columns * width) for rows, columns in matrices)
        merge += feed_forward_flops(width, 1)
        leaves = feed_forward_flops(width, length)
        return leaves + self._num_merges(length) * merge + product(width, num_classes)

    def _operator(self) -> int:
        tensors = OPERATORS[self.operator]
        return sum(math.prod(side * self.width for side in sides) for sides in tensors)

    def _num_merges(self, length: int) -> int:
        if self.lone_node in ("carry", "left_fold"):
            return length - 1
        merges, padded = 0, 1 << (length - 1).bit_length()
        while length > 1:
            length, padded = -(-length // 2), padded // 2
            merges += length
            # nodes of nothing but padding are all the same
            if self.lone_node == "pad_power_of_two" and length < padded:
                merges += 1
        return merges


class _RecurrentConfig(WidthBase):
    """A cell of gates over one-hot tokens, all of one shape."""

    num_gates: ClassVar[int]
    width: Width = Field(256, description="hidden units")

    def num_parameters(self, num_symbols: int, num_classes: int) -> int:
        """See `ModelBase`; torch's cells have two biases in every gate."""
        gate = (num_symbols + self.width + 2) * self.width
        return self.num_gates * gate + affine(self.width, num_classes)

    def num_flops(self, length: int, num_symbols: int, num_classes: int) -> int:
        """See `ModelBase`."""
        gates = self.num_gates * product(num_symbols + self.width, self.width, length)
        return gates + product(self.width, num_classes)


class RnnConfig(_RecurrentConfig):
    """Elman network with ReLU on one-hot tokens.

    Source: Elman 1990; sizes as in Delétang et al. 2023.
    """

    num_gates = 1
    kind: Literal["rnn"]


class LstmConfig(_RecurrentConfig):
    """Long short-term memory on one-hot tokens, forget-gate bias 1.

    Source: Hochreiter and Schmidhuber 1997; sizes as in Delétang et al. 2023.
    """

    num_gates = 4
    kind: Literal["lstm"]


class GruConfig(_RecurrentConfig):
    """Gated recurrent unit on one-hot tokens.

    Source: Cho et al. 2014; the reset gate acts after the matrix product.
    """

    num_gates = 3
    kind: Literal["gru"]


class TransformerConfig(HeadsBase):
    """Post-norm Transformer encoder with full attention, read at the last token.

    Source: Vaswani et al. 2017; sizes as in Delétang et al. 2023.
    """

    headline = "positions"
    small: ClassVar[dict[str, Any]] = {"width": 8, "layers": 2, "heads": 2}
    kind: Literal["transformer"]
    width: Width = Field(64, description="state features; a multiple of heads")
    layers: Layers = Field(5, description="different layers")
    heads: Heads = Field(8, description="attention heads")
    positions: Positions = Field("sinusoidal", description="how a token knows its place")
    looped: bool = Field(False, description="run through all layers ceil(log2 T) times")
    dropout: Share = Field(0.0, description="after the embedding and in every residual branch")

    @property
    def width_step(self) -> int:
        """Widths come in multiples of this."""
        pairs = 2 if self.positions == "rope" else 1
        return math.lcm(self.heads * pairs, 2 if self.positions in _WAVES else 1)

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if self.is_width_open:
            return self
        if self.positions == "rope" and (self.width // self.heads) % 2:
            raise ValueError(
                f"positions 'rope' rotates pairs: width / heads = {self.width // self.heads} is odd"
            )
        if self.positions in _WAVES and self.width % 2:
            raise ValueError(
                f"positions '{self.positions}' comes in pairs: width {self.width} is odd"
            )
        return self

    def num_parameters(self, num_symbols: int, num_classes: int) -> int:
        """See `ModelBase`."""
        width = self.width
        layer = 4 * width**2 + 2 * norm(width) + feed_forward(width)
        if self.positions == "relative":
            layer += width**2 + 2 * width
        return num_symbols * width + self.layers * layer + affine(width, num_classes)

    def num_flops(self, length: int, num_symbols: int, num_classes: int) -> int:
        """See `ModelBase`; the last layer of a stack that is not looped has a single query."""
        depth = self.layers * ((length - 1).bit_length() if self.looped else 1)
        full = depth if self.looped else depth - 1
        flops = full * self._layer(length, length) + (depth - full) * self._layer(1, length)
        return flops + product(self.width, num_classes)

    def _layer(self, num_queries: int, num_keys: int) -> int:
        width = self.width
        maps = product(width, 2 * width, num_queries) + product(width, 2 * width, num_keys)
        pairs = num_queries * num_keys
        attention = 2 * product(1, width, pairs)
        if self.positions == "relative":
            # every head compares all waves of a distance
            attention += product(width, width, num_queries) + product(self.heads, width, pairs)
        return maps + attention + feed_forward_flops(width, num_queries)


# positions that are sines and cosines of width / 2 frequencies
_WAVES = ("sinusoidal", "relative")


class RegularGptConfig(HeadsBase):
    """Transformer of ceil(log_c T) rounds of one layer, each over windows of c states.

    Source: Chi et al. 2023, arXiv 2305.03796.
    """

    variants = ({"window": 3},)
    kind: Literal["regular_gpt"]
    width: Width = Field(64, description="state features; a multiple of heads")
    heads: Heads = Field(8, description="attention heads")
    window: Annotated[int, Field(ge=2, le=1024)] = Field(
        2, description="states that a round makes one of: c"
    )
    dropout: Share = Field(0.0, description="after the embedding and in every residual branch")

    def num_parameters(self, num_symbols: int, num_classes: int) -> int:
        """See `ModelBase`."""
        width = self.width
        layer = 4 * width**2 + 2 * norm(width) + feed_forward(width) + self.heads * self.window
        return (num_symbols + 1) * width + layer + affine(width, num_classes)

    def num_flops(self, length: int, num_symbols: int, num_classes: int) -> int:
        """See `ModelBase`; only the last query of every window is kept, so only it is counted."""
        width, window = self.width, self.window
        of_window = product(width, 2 * width) + product(width, 2 * width, window)
        of_window += 2 * product(1, width, window) + feed_forward_flops(width, 1)
        num_windows = 0
        while length > 1:
            length = -(-length // window)
            num_windows += length
        return num_windows * of_window + product(width, num_classes)


class ConstantConfig(ModelBase):
    """A learned bias that ignores its input: chance itself, and the platform's own overhead."""

    kind: Literal["constant"]

    def num_parameters(self, num_symbols: int, num_classes: int) -> int:
        """See `ModelBase`."""
        return num_classes

    def num_flops(self, length: int, num_symbols: int, num_classes: int) -> int:
        """See `ModelBase`."""
        return 0


def _by_kind(found: Iterable[object]) -> dict[str, type[ModelBase]]:
    """Return the classes among ``found`` that say what kind they are, in the order of the kinds.

    A class further down in this file is none of them.
    """
    kinds: dict[str, type[ModelBase]] = {}
    for each in found:
        if not (isinstance(each, type) and issubclass(each, ModelBase)):
            continue
        says = each.model_fields["kind"].annotation
        # what several kinds share says none
        if get_origin(says) is Literal:
            kind = get_args(says)[0]
            if kinds.setdefault(kind, each) is not each:
                raise TypeError(f"{each.__name__}: '{kind}' is the kind of {kinds[kind].__name__}")
    return dict(sorted(kinds.items()))


MODEL_CONFIGS = _by_kind([*vars(linear_recurrences).values(), *globals().values()])
if TYPE_CHECKING:
    ModelConfig: TypeAlias = ModelBase
else:
    ModelConfig = Annotated[reduce(or_, MODEL_CONFIGS.values()), Field(discriminator="kind")]

_Config = TypeVar("_Config", bound=ModelBase)


def matched(config: _Config, num_symbols: int, num_classes: int) -> _Config:
    """Return the configuration with the width that ``match_parameters`` asks for.

    One without ``match_parameters``, or that already has this width, comes back as it is.

    Raises:
        ValueError: no width comes near enough, or another one is given.
    """
    if not isinstance(config, WidthBase) or config.match_parameters is None:
        return config
    wanted, step = config.match_parameters, config.width_step

    def count(multiple: int) -> int:
        resized = config.model_copy(update={"width": multiple * step})
        return resized.num_parameters(num_symbols, num_classes)

    multiples = range(1, MAX_WIDTH // step + 1)
    above = multiples[min(bisect.bisect_left(multiples, wanted, key=count), len(multiples) - 1)]
    around = sorted({max(above - 1, 1), above})
    nearest = min(around, key=lambda multiple: abs(count(multiple) - wanted))
    if abs(count(nearest) - wanted) > _MATCH_TOLERANCE * wanted:
        known = " and ".join(f"{count(each)} (width {each * step})" for each in around)
        raise ValueError(
            f"match_parameters {wanted}: the nearest counts of this {config.kind} are {known}, "
            "none within 5 %. Ask for one of them, or change its other fields"
        )
    if config.is_width_open:
        return config.model_copy(update={"width": nearest * step})
    if config.width != nearest * step:
        raise ValueError(
            f"width {config.width} is given, but match_parameters {wanted} asks for width "
            f"{nearest * step}. Drop one of the two"
        )
    return config
