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
    """The labels of an automaton; walked where its monoid is too large for a table.

    Symbols are taken several at once, as many as a byte can tell apart: a table has their product.
    """

    def __init__(self, automaton: Automaton) -> None:
        self.automaton = automaton
        # one more symbol than there are: it changes nothing, and fills up a last few
        self._num_letters = automaton.num_symbols + 1
        self._at_once = max(n for n in range(1, 9) if n == 1 or self._num_letters**n <= 256)

    def label(self, tokens: Symbols, lengths: Ints) -> Ints:
        """Return the class of every string; see `Automaton.label`."""
        longest = int(lengths.max(initial=0))
        parts = (
            self._packed(tokens[:, start : min(start + _CHUNK, longest)], lengths - start)
            for start in range(0, longest, _CHUNK)
        )
        if self._tables is None:
            leads, size = self._leads.reshape(-1), self._leads.shape[1]
            state = np.zeros(len(lengths), dtype=np.int64)
            for part in parts:
                for codes in np.ascontiguousarray(part.T):
                    state *= size
                    state += codes
                    state = leads.take(state)
            return self.automaton.outputs[state]
        elements, products, outputs = self._tables
        size = len(outputs)
        # the empty string is element 0
        whole = np.zeros(len(lengths), dtype=np.int64)
        for part in parts:
            maps = elements.take(part)
            while maps.shape[1] > 1:
                last = maps[:, -1:] if maps.shape[1] % 2 else maps[:, :0]
                pairs = maps[:, 0 : maps.shape[1] - last.shape[1]]
                maps = np.hstack([products.take(pairs[:, ::2] * size + pairs[:, 1::2]), last])
            whole = products[whole * size + maps[:, 0]]
        found: Ints = outputs[whole]
        return found

    def _packed(self, tokens: Symbols, lengths: Ints) -> Symbols:
        """Return a number for every few symbols, in base V + 1, uint8 [B, T / as many]."""
        num_strings, longest = tokens.shape
        at_once, nothing = self._at_once, self.automaton.num_symbols
        letters = np.full((num_strings, -(-longest // at_once) * at_once), nothing, dtype=np.uint8)
        letters[:, :longest] = tokens
        if lengths.min() < longest:
            is_there = np.arange(letters.shape[1]) < lengths[:, None]
            letters = np.where(is_there, letters, np.uint8(nothing))
        codes = letters[:, ::at_once]
        for place in range(1, at_once):
            codes = codes * np.uint8(self._num_letters) + letters[:, place::at_once]
        return codes

    @cached_property
    def _leads(self) -> Ints:
        """Return the state after each state and every few symbols, [S, (V + 1)^few]."""
        states = np.arange(self.automaton.num_states)
        one = np.column_stack([self.automaton.transitions, states])
        found = one
        for _ in range(1, self._at_once):
            found = one[found].reshape(len(states), -1)
        return found

    @cached_property
    def _tables(self) -> tuple[Ints, Ints, Ints] | None:
        """Return the element of every few symbols, all products [M * M], each element's class."""
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
        found_at, first = np.unique(longer, return_index=True)
        for element, place in zip(found_at.tolist(), first.tolist(), strict=True):
            if element:
                shorter, symbol = divmod(place, smallest.num_symbols)
                products[:, element] = longer[products[:, shorter], symbol]
        letters = np.append(longer[0], 0)
        elements = letters
        for _ in range(1, self._at_once):
            elements = products[elements[:, None], letters].reshape(-1)
        return elements, products.reshape(-1), smallest.outputs[monoid[:, 0]]
