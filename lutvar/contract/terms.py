# SPDX-License-Identifier: Apache-2.0
"""Operands in one or two terms: codes whose sum a weight, or an input, is (docs/arithmetic.md)."""

from __future__ import annotations

from typing import NamedTuple


class Terms(NamedTuple):
    """Terms of a layer's operands, each 1 or 2."""

    weights: int = 1
    inputs: int = 1

    @property
    def products(self) -> int:
        """Passes of the array over a group of inputs: one for each pair of terms."""
        return self.weights * self.inputs


ONE_TERM = Terms()


def check_terms(where: str, terms: Terms, dual: bool) -> None:
    """Raise ValueError for terms that no layer can have."""
    if terms.weights not in (1, 2) or terms.inputs not in (1, 2):
        raise ValueError(f"{where}: terms are {tuple(terms)}; weights and inputs have 1 or 2 each")
    if dual and terms.inputs == 2:
        raise ValueError(
            f"{where}: inputs in two terms in a dual format, which has a scale for each sign; two "
            "terms need a format with one scale"
        )
