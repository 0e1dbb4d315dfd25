"""Operators of one file each, which run by their formula: every file here is one, of its name.

A file names the tensors as a class ``Weights``, a `NamedTuple`; gives in ``SIDES`` every side of
every tensor in multiples of E, matrices [in, out], in the order of the fields; and defines
``merge(pairs, weights)``, which takes pairs [l; r], [..., 2E], to [..., E], or of a population
[P, n, 2E] with weights that have P as their first side, as `ldru_kernels.formulas` does.

Gradients come from torch. An operator that must be fast gets its backward pass written out instead,
in `ldru_kernels.merge_rows`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from torch import Tensor


class Formula(NamedTuple):
    """What a file of an operator says."""

    weights: type[Any]
    sides: tuple[tuple[int, ...], ...]
    merge: Callable[[Tensor, Any], Tensor]


def _read(name: str) -> Formula:
    file = import_module(f"{__name__}.{name}")
    return Formula(file.Weights, file.SIDES, file.merge)


FORMULAS = {file.name: _read(file.name) for file in pkgutil.iter_modules(__path__)}
