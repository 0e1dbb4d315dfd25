"""Balanced trees of learned merges; needs torch and nothing else.

Public: `tree_reduce` and the weights it takes. What the op means stands in `reference`, the
brackets of every lone-node rule in `schedule`.
"""

from ldru_kernels.reference import feed_forward, parent_states
from ldru_kernels.schedule import LONE_NODE_RULES
from ldru_kernels.tree_reduce import tree_reduce
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
    shapes,
)

__all__ = [
    "LONE_NODE_RULES",
    "OPERATORS",
    "ElementwiseSum",
    "FeedForward",
    "GatedRecursiveCell",
    "GatedSum",
    "Linear",
    "MergeWeights",
    "Mlp",
    "Norm",
    "Operator",
    "feed_forward",
    "parent_states",
    "shapes",
    "tree_reduce",
]
