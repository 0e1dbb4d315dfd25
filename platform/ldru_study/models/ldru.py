"""The log-depth recurrent unit: a learned binary operator in a balanced tree over the tokens.

Source: arXiv 2605.26035, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup, get_rank, get_world_size
from torch.nn import functional as F

from ldru_kernels import (
    OPERATORS,
    FeedForward,
    LevelNorms,
    MergeWeights,
    Norm,
    Operator,
    StreamingReduction,
    feed_forward,
    level_norms,
    parent_states,
    shapes,
    tree_reduce_tokens,
)
from ldru_kernels import parallel as sequence_parallel
from ldru_study.models.layers import Affine, truncated_normal, variance_scaling
from ldru_study.spec.model import LdruConfig

# of strings of fewer than 2^31 tokens, brackets of one level more included
_MOST_LEVELS = 32
_NUM_DEFECT_TOKENS = 2**13


class Ldru(nn.Module):
    """Embedding, norm and residual FFN per token, a tree of merges, one affine readout.

    Matrices are stored [in, out]. Matrices of the operator start as Glorot normal, its value maps
    as the identity, the node FFN near zero, so that a fresh merge is little more than its operator;
    leaf FFN and readout start as LeCun normal, where the paper gives nothing.
    """

    def __init__(self, config: LdruConfig, num_symbols: int, num_classes: int) -> None:
        super().__init__()
        width = config.width
        self.lone_node, self.dropout = config.lone_node, config.dropout
        self.node_noise, self.random_brackets = config.node_noise, config.random_brackets
        self._offsets: tuple[int, ...] | None = None
        self.embedding = nn.Embedding(num_symbols, width)
        self.embedding.weight = nn.Parameter(truncated_normal(num_symbols, width, std=0.02))
        self.leaf_norm = nn.LayerNorm(width)
        self.leaf_ffn = _feed_forward(width)
        self._operator_kind = OPERATORS["grc_tanh" if config.gelu == "tanh" else config.operator]
        self.operator = _operator(self._operator_kind, width)
        self.node_ffn = _feed_forward(width, node=True)
        self.node_norm = nn.LayerNorm(width)
        # a rule with an identity element starts as zero_right
        self.identity = nn.Parameter(torch.zeros(width)) if config.lone_node == "identity" else None
        self.classifier = Affine(width, num_classes)
        self._group: ProcessGroup | None = None

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Return logits [B, C]; see `ldru_study.models`."""
        logits: Tensor = self.classifier(self._roots(tokens, lengths))
        return logits

    def sequence_parallel(self, group: ProcessGroup | None) -> None:
        """Split every string over the workers of a group from now on; None: this one reads all.

        All workers of the group then call the model with the same whole batch, and get the same
        logits. Averaged over the workers, gradients are those of one.

        Raises:
            ValueError: there is a group, and brackets are random.
        """
        if group is not None and self.random_brackets:
            raise ValueError("random_brackets: their trees have no subtree for every worker")
        self._group = group

    def draw_brackets(self, seed: int) -> None:
        """Draw the brackets of all calls in training from now on, if they are random.

        Until then every call draws its own, from torch's generator of the CPU.

        Args:
            seed: in 0..2^64 - 1.
        """
        if self.random_brackets:
            self._offsets = _random_offsets(torch.Generator().manual_seed(seed))

    def stream(self, lengths: Tensor) -> LdruStream:
        """Begin to read strings of ``lengths``, int64 [B], piece by piece."""
        return LdruStream(self, lengths)

    def _roots(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        table, weights = self._leaf_of_symbol(), self._merge_weights()
        dropout, node_noise = (self.dropout, self.node_noise) if self.training else (0.0, 0.0)
        offsets: tuple[int, ...] = ()
        if self.training and self.random_brackets:
            offsets = _random_offsets() if self._offsets is None else self._offsets
        if self._group is None:
            return tree_reduce_tokens(
                table,
                tokens,
                weights,
                lengths=lengths,
                lone_node=self.lone_node,
                offsets=offsets,
                dropout=dropout,
                node_noise=node_noise,
            )
        # padding decides how many chunks there are, and not what comes out
        size = sequence_parallel.chunk_size(tokens.shape[1], get_world_size(self._group))
        start = get_rank(self._group) * size
        own = tokens[:, start : start + size]
        return sequence_parallel.tree_reduce_tokens(
            table,
            F.pad(own, (0, size - own.shape[1])),
            weights,
            group=self._group,
            lengths=lengths,
            lone_node=self.lone_node,
            dropout=dropout,
            node_noise=node_noise,
        )

    @torch.inference_mode()
    def associativity_defect(self, tokens: Tensor, lengths: Tensor) -> float | None:
        """Return the mean cosine distance between F(F(a, b), c) and F(a, F(b, c)).

        F is the operator with node FFN and norm; a, b, c are three neighbouring nodes of one
        level, as in `associativity_penalty`, whose mean over its draws this is: every level at
        which a string has three such nodes counts alike, and within it every place in every
        string, without dropout and noise. 0 is an associative operator.

        Args:
            tokens: int64 [B, T]. The first strings that have 2^13 tokens together are looked at.
            lengths: int64 [B].

        Returns:
            A number in 0..2; None where none of them has three tokens.
        """
        few = max(1, int((lengths.cumsum(0) <= _NUM_DEFECT_TOKENS).sum()))
        counts, weights = lengths[:few], self._merge_weights()
        nodes = self._leaf_of_symbol()[tokens[:few]]
        means = []
        while nodes.shape[1] > 2:
            places = torch.arange(nodes.shape[1] - 2, device=nodes.device)
            is_real = places < counts[:, None] - 2
            if not is_real.any():
                break
            triples = nodes.unfold(1, 3, 1)[is_real].transpose(1, 2)
            means.append(float(self._defects(triples).mean()))
            num_pairs = nodes.shape[1] // 2
            pairs = nodes[:, : 2 * num_pairs].reshape(len(nodes), num_pairs, -1)
            nodes = parent_states(pairs, weights)
            counts = counts // 2
        return sum(means) / len(means) if means else None

    def associativity_penalty(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Return the mean cosine distance between F(F(a, b), c) and F(a, F(b, c)), with gradients.

        a, b, c are three neighbouring nodes of one level, each the root of a complete block of
        2^level tokens, without dropout and noise. The level is drawn evenly from those at which a
        string has three such nodes, and there as many triples as have together no more tokens than
        the batch, from torch's generator of the CPU. 0 where no string has three tokens.

        Source: our own; it is 0 if and only if F is associative on these states.
        """
        longest = int(lengths.max())
        if longest < 3:
            return self.classifier.bias.new_zeros(())
        level = int(torch.randint((longest // 3).bit_length(), ()))
        # triples of each string, string by string
        counts = ((lengths.cpu() >> level) - 2).clamp(min=0)
        ends = counts.cumsum(0)
        num_triples = max(1, int(lengths.sum()) // (3 << level))
        drawn = torch.randint(int(ends[-1]), (min(num_triples, int(ends[-1])),))
        strings = torch.searchsorted(ends, drawn, right=True)
        firsts = (drawn - (ends - counts)[strings]) << level
        places = firsts[:, None] + torch.arange(3 << level)
        blocks = tokens[strings.to(tokens.device)[:, None], places.to(tokens.device)]
        nodes = tree_reduce_tokens(
            self._leaf_of_symbol(),
            blocks.reshape(-1, 1 << level),
            self._merge_weights(),
            lone_node=self.lone_node,
        )
        return self._defects(nodes.view(len(drawn), 3, -1)).mean()

    def _defects(self, triples: Tensor) -> Tensor:
        """Return the cosine distances of both ways to combine triples [N, 3, E]."""
        a, b, c = triples.unbind(1)
        weights = self._merge_weights()

        def combine(left: Tensor, right: Tensor) -> Tensor:
            return parent_states(torch.cat([left, right], dim=1), weights)

        return 1 - F.cosine_similarity(combine(combine(a, b), c), combine(a, combine(b, c)))

    def level_norms(self, tokens: Tensor, lengths: Tensor, labels: Tensor) -> LevelNorms:
        """Return how large states are at every level, and the gradients of the cross-entropy.

        Args:
            tokens: int64 [B, T]. The first strings that have 2^14 tokens together are looked at; of
                a longer one, the levels below 2^10 tokens are estimated from a few parts of it.
            lengths: int64 [B].
            labels: int64 [B].

        Returns:
            Norms, float32 [D + 1], from the leaves up, where D is the number of levels of merges.
        """

        def loss(roots: Tensor) -> Tensor:
            logits = self.classifier(roots)
            return F.cross_entropy(logits, labels[: len(roots)], reduction="sum")

        with torch.no_grad():
            table, weights = self._leaf_of_symbol(), self._merge_weights()
        return level_norms(table, tokens, weights, loss, lengths=lengths, lone_node=self.lone_node)

    def _leaf_of_symbol(self) -> Tensor:
        """Return the leaf state of every symbol, [V, E]: a leaf depends on its symbol alone."""
        x = self.leaf_norm(self.embedding.weight)
        leaf: Tensor = x + feed_forward(x, FeedForward(**self.leaf_ffn))
        return leaf

    def _merge_weights(self) -> MergeWeights:
        return MergeWeights(
            operator=self._operator_kind(**self.operator),
            node_ffn=FeedForward(**self.node_ffn),
            node_norm=Norm(self.node_norm.weight, self.node_norm.bias),
            identity=self.identity,
        )


class LdruStream:
    """Strings that an `Ldru` reads piece by piece; see `ldru_study.models.registry.Stream`."""

    def __init__(self, model: Ldru, lengths: Tensor) -> None:
        self.model = model
        with torch.no_grad():
            self.reduction = StreamingReduction(
                model._leaf_of_symbol(),
                model._merge_weights(),
                lengths=lengths,
                lone_node=model.lone_node,
            )

    def push(self, tokens: Tensor) -> None:
        """Take the next tokens; see `ldru_study.models.registry.Stream`."""
        self.reduction.push(tokens)

    @torch.no_grad()
    def logits(self) -> Tensor:
        """Return the logits; see `ldru_study.models.registry.Stream`."""
        found: Tensor = self.model.classifier(self.reduction.roots())
        return found


def _random_offsets(generator: torch.Generator | None = None) -> tuple[int, ...]:
    """Return at which node, 0 or 1, the pairs of each level begin, whatever strings will come."""
    return tuple(torch.randint(2, (_MOST_LEVELS,), generator=generator).tolist())


def _operator(kind: type[Operator], width: int) -> nn.ParameterDict:
    weights = nn.ParameterDict()
    for field, shape in shapes(kind, width).items():
        if field in ("v_left", "v_right", "w_out"):
            weights[field] = torch.eye(width)
        elif len(shape) == 2:
            weights[field] = variance_scaling(*shape, mode="fan_avg")
        else:
            weights[field] = torch.full(shape, float(field == "norm_weight"))
    return weights


def _feed_forward(width: int, *, node: bool = False) -> nn.ParameterDict:
    weights = nn.ParameterDict()
    for field, shape in shapes(FeedForward, width).items():
        if len(shape) == 1:
            weights[field] = torch.zeros(shape)
        elif node:
            weights[field] = variance_scaling(*shape, scale=0.02, mode="fan_avg")
        else:
            weights[field] = variance_scaling(*shape)
    return weights
