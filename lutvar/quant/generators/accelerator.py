# SPDX-License-Identifier: Apache-2.0
"""Why the accelerator does not run a RAR or PAR model: what its units would have to learn."""

from __future__ import annotations

from .config import ParConfig, RarConfig

#: Columns of a head on the accelerator.
_HEAD = 64


def lacks(config: RarConfig | ParConfig) -> list[str]:
    """One clause for each thing that the accelerator lacks, in the order of the units."""
    rar = isinstance(config, RarConfig)
    if rar:
        missing = [
            "AdaLN vectors for every token (FRONT and POST read those of the class)",
            "a layer norm of each head's queries and keys (POST scales them to unit length)",
            "GELU in its exact form (POST has the tanh form)",
        ]
    else:
        missing = [
            "RMSNorm (FRONT subtracts the mean)",
            "queries and keys of any length (POST scales them to unit length)",
            "rotary positions (POST turns no channels)",
            "SwiGLU's product of two outputs (POST has GELU of one)",
        ]
    head = config.width // config.heads
    if head != _HEAD:
        missing.append(f"heads of {head} columns (records and ATTEND have {_HEAD})")
    return missing


def refusal(name: str, config: RarConfig | ParConfig) -> str:
    """The line with which commands refuse a model that are made for VAR and the accelerator."""
    family = "RAR" if isinstance(config, RarConfig) else "PAR"
    return (
        f"{name}: is a {family} model, and what was asked for is made for VAR models; the "
        f"accelerator does not run it, since it lacks {'; '.join(lacks(config))}. `generate` "
        "draws from it, `quantize --recipe` and `quality --recipe` take it (docs/methods.md)"
    )
