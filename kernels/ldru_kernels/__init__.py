"""Balanced trees of learned merges; needs torch and nothing else.

Public: `tree_reduce`, `tree_reduce_tokens`, `prefix_scan`, `StreamingReduction`, `StreamingScan`
and the weights they take; `parallel` has the ops for several workers. What the ops mean stands in
`reference`, their brackets in `schedule`.
"""

from ldru_kernels.levels import LONE_NODE_RULES
from ldru_kernels.memory import give_back_freed_memory, keep_freed_memory
from ldru_kernels.norms import LevelNorms, level_norms
from ldru_kernels.prefix_scan import StreamingScan, prefix_scan
from ldru_kernels.reference import feed_forward, parent_states
from ldru_kernels.streaming import StreamingReduction
from ldru_kernels.tree_reduce import tree_reduce, tree_reduce_tokens
from ldru_kernels.weights import (
    OPERATORS,
    ElementwiseSum,
    FeedForward,
    GatedRecursiveCell,
    GatedSum,
    Linear,
    MergeWeights,
    Mlp,
    Norm,
    Operator,
    TanhGatedRecursiveCell,
    shapes,
)

__all__ = [
    "LONE_NODE_RULES",
    "OPERATORS",
    "ElementwiseSum",
    "FeedForward",
    "GatedRecursiveCell",
    "GatedSum",
    "LevelNorms",
    "Linear",
    "MergeWeights",
    "Mlp",
    "Norm",
    "Operator",
    "StreamingReduction",
    "StreamingScan",
    "TanhGatedRecursiveCell",
    "feed_forward",
    "give_back_freed_memory",
    "keep_freed_memory",
    "level_norms",
    "parent_states",
    "prefix_scan",
    "shapes",
    "tree_reduce",
    "tree_reduce_tokens",
]
