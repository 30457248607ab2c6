# SPDX-License-Identifier: Apache-2.0
"""Codes whose sum an operand is: which linears of a recipe have weights or inputs in two terms.

Two codes with scales of their own, the second quantizing what the first leaves, stand for a value
to about twice the bits (docs/arithmetic.md, 4 and 6); the array takes as many passes as there are
pairs of terms. A step decides how the first set of a weight is rounded, as for one term; the second
rounds the rest to nearest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BeforeValidator

from lutvar.quant.var.sites import SITE_NAMES, SiteName

from .specs import LayerSpec

#: Linears that the accelerator computes, which may have operands in two terms.
TERM_SITES: tuple[SiteName, ...] = (*SITE_NAMES, "head")
_BLOCK_SITE = re.compile(r"blocks\.(0|[1-9][0-9]*)\.([a-z0-9_]+)", re.ASCII)


def _pair(value: object) -> object:
    """Refuse, in one line, what is no pair of 1 and 2."""
    pair = list(value) if isinstance(value, list | tuple) else []
    if len(pair) != 2 or not all(type(n) is int and n in (1, 2) for n in pair):
        raise ValueError(f"{value!r}: terms are [weights, inputs], each 1 or 2, such as [2, 1]")
    return value


#: (terms of the weights, terms of the inputs).
Terms = Annotated[tuple[Literal[1, 2], Literal[1, 2]], BeforeValidator(_pair)]


def check_terms(
    terms: Mapping[str, tuple[int, int]], specs: Mapping[SiteName, Sequence[LayerSpec]]
) -> None:
    """Raise ValueError for terms of a linear that cannot have them, given all its quantizers."""
    for key, (weights, inputs) in terms.items():
        match = _BLOCK_SITE.fullmatch(key)
        name = match.group(2) if match else key
        if name not in TERM_SITES or (match and name == "head"):
            raise ValueError(
                f"terms.{key}: no such linear; name one of {', '.join(TERM_SITES)}, or one of a "
                f"block such as blocks.0.{SITE_NAMES[-1]}"
            )
        own = specs.get(name, ())
        for what, count in (("weight", weights), ("input", inputs)):
            quantizers = [getattr(spec, what) for spec in own]
            if count == 2 and (not quantizers or None in quantizers):
                raise ValueError(
                    f"terms.{key}: {what}s in two terms, but layers.{name} has no {what} "
                    "quantizer; give it one, or leave these terms out"
                )
            for spec in quantizers if count == 2 else ():
                if spec.two_sided:
                    raise ValueError(
                        f"terms.{key}: {what}s in two terms in {spec.format}, which has a scale "
                        "for each sign; two terms need a format with one scale, such as E2M1"
                    )
