"""Labels by products: strings are multiplied pairwise, all places at once, instead of walked.

A symbol is a map of states to states, a string their product, and a product of two maps is one
look-up in a table. So a batch takes log2 T steps of arrays where a walk takes T.
Shapes: B batch, T tokens, S states, M elements of the monoid.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from ldru_study.tasks.algebra import minimal, unfold
from ldru_study.tasks.automaton import Automaton, Ints, Symbols

# a table has the square of this many entries
_LARGEST = 1024
# tokens that are multiplied at once, so that memory does not grow with the strings
_CHUNK = 4096


class ProductLabels:
    """The labels of an automaton; walked where its monoid is too large for a table."""

    def __init__(self, automaton: Automaton) -> None:
        self.automaton = automaton

    def label(self, tokens: Symbols, lengths: Ints) -> Ints:
        """Return the class of every string; see `Automaton.label`."""
        if self._tables is None:
            return self.automaton.label(tokens, lengths)
        letters, products, outputs = self._tables
        size = len(outputs)
        # the empty string is element 0
        whole = np.zeros(len(lengths), dtype=np.int64)
        longest = int(lengths.max(initial=0))
        is_ragged = bool(lengths.min(initial=longest) < longest)
        for start in range(0, longest, _CHUNK):
            end = min(start + _CHUNK, longest)
            maps = letters[tokens[:, start:end]]
            if is_ragged:
                maps[np.arange(start, end) >= lengths[:, None]] = 0
            while maps.shape[1] > 1:
                last = maps[:, -1:] if maps.shape[1] % 2 else maps[:, :0]
                pairs = maps[:, 0 : maps.shape[1] - last.shape[1]]
                maps = np.hstack([products[pairs[:, ::2] * size + pairs[:, 1::2]], last])
            whole = products[whole * size + maps[:, 0]]
        found: Ints = outputs[whole]
        return found

    @cached_property
    def _tables(self) -> tuple[Ints, Ints, Ints] | None:
        """Return the element of each symbol, all products [M * M], and each element's class."""
        smallest = minimal(self.automaton)
        found = unfold(
            np.arange(smallest.num_states),
            lambda leads, symbol: smallest.transitions[leads, symbol],
            smallest.num_symbols,
            _LARGEST,
        )
        if found is None:
            return None
        longer, monoid = found
        products = np.zeros((len(monoid), len(monoid)), dtype=np.int64)
        products[:, 0] = np.arange(len(monoid))
        # every element but the first is a shorter one and a symbol, and comes after it
        elements, first = np.unique(longer, return_index=True)
        for element, place in zip(elements.tolist(), first.tolist(), strict=True):
            if element:
                shorter, symbol = divmod(place, smallest.num_symbols)
                products[:, element] = longer[products[:, shorter], symbol]
        return longer[0], products.reshape(-1), smallest.outputs[monoid[:, 0]]
