# SPDX-License-Identifier: Apache-2.0
"""Sizes of the whole accelerator: one file in `lutvar/configs/accelerator` is one bitstream."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from lutvar.yaml_files import shipped

from .errors import ConfigError
from .formats import NumberFormat, get_format
from .names import Name
from .quant_preset import GROUP, QuantConfig, _Strict, load_config, load_quant
from .two_terms import check_two_terms

LANES = 16  #: values in a beat of the vector units
ROW_GROUP = 16  #: token rows that share weights registers and drain together
BEAT_BYTES = 64  #: every memory port
HEAD_DIM = 64  #: columns of an attention head; all released models have it
WEIGHT_BLOCK = 32  #: outputs that share a beat of scales in a weight panel
STRIPE = 128  #: consecutive outputs of a weight panel that lie on one weight port


@cache
def _shipped_quant(name: str) -> QuantConfig:
    """A preset that ships: read once, for it is asked for very often."""
    return load_quant(name)


class AcceleratorConfig(_Strict):
    """Size of the accelerator.

    The limits say which models and programs it runs; the compiler refuses others, naming the limit.
    """

    name: Name
    quant: str = Field(description="name of the quantization preset that it runs")
    kv_format: Literal["E2M3", "E2M1"] = Field(
        default="E2M3", description="format of q, k and v in the attention products"
    )
    rows: int = Field(ge=16, le=512, description="token rows multiplied in parallel")
    dot: Literal["table", "da"] = Field(
        default="table", description="product tables, or distributed arithmetic in LUTRAM"
    )
    float32: Literal["portable", "dsp58"] = Field(
        default="portable",
        description="scaling and accumulation in LUTs and any DSP, or in DSP58 of Versal",
    )
    act_banks: int = Field(default=4, ge=2, le=8, description="banks of activation codes")
    bank_groups: int = Field(ge=1, le=128, description="groups of 128 in a bank")
    acc_banks: int = Field(default=2, ge=2, le=8, description="banks of accumulators")
    acc_depth: int = Field(ge=128, le=8192, description="outputs in a bank of accumulators")
    max_width: int = Field(ge=128, le=2304, description="largest model width C")
    attention_rows: int = Field(ge=1, le=32, description="query rows that share a pass over keys")
    attention_dsp_rows: int = Field(
        default=0, ge=0, description="of these, rows whose scores take 32 DSP instead of LUTs"
    )
    max_keys: int = Field(ge=16, le=4095, description="largest number of keys")
    weight_ports: Literal[1, 2, 4] = Field(
        default=1, description="memory ports that weights come through, by stripes of 128 outputs"
    )
    max_sections: Literal[1, 2, 4] = Field(
        default=1,
        description="sections that the array can split into for tiles of few rows, each with its "
        "own weight ports",
    )
    input_terms: Literal[1, 2] = Field(
        default=2, description="most terms that inputs of a single-scale format are quantized in"
    )
    decoder: bool = Field(
        default=True, description="POST has what the tokenizer's decoder needs: NORM, sums and SUMS"
    )
    weight_fifo: int = Field(
        default=256, ge=64, description="beats of weights fetched ahead on each weight port"
    )
    read_fifo: int = Field(default=64, ge=32, description="beats of other data fetched ahead")
    queue: int = Field(default=16, ge=2, le=64, description="instructions waiting at each unit")
    pipelined: bool = Field(
        default=True, description="units accept new work in each cycle; False for comparison only"
    )

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        for key in ("acc_depth", "weight_fifo", "read_fifo"):
            value = getattr(self, key)
            if value & (value - 1):
                raise ValueError(f"{key} is {value}; it must be a power of two")
        if self.attention_dsp_rows > self.attention_rows:
            raise ValueError(
                f"attention_dsp_rows is {self.attention_dsp_rows}; there are "
                f"{self.attention_rows} attention_rows"
            )
        if self.rows % ROW_GROUP:
            raise ValueError(f"rows is {self.rows}; it must be a multiple of {ROW_GROUP}")
        if self.max_sections > self.weight_ports:
            raise ValueError(
                f"max_sections is {self.max_sections}; each section takes a weight port of its "
                f"own, and weight_ports is {self.weight_ports}"
            )
        if self.max_sections > self.row_groups:
            raise ValueError(
                f"max_sections is {self.max_sections}; rows {self.rows} are {self.row_groups} "
                f"groups of {ROW_GROUP}, and a section needs at least one"
            )
        if self.max_width % GROUP:
            raise ValueError(f"max_width is {self.max_width}; it must be a multiple of {GROUP}")
        if self.bank_groups * GROUP < self.max_width:
            raise ValueError(
                f"bank_groups {self.bank_groups} holds {self.bank_groups * GROUP} inputs; a row of "
                f"max_width {self.max_width} is normalised as a whole and must fit"
            )
        return self

    @property
    def quant_config(self) -> QuantConfig:
        """The quantization preset that `quant` names."""
        return (
            _shipped_quant(self.quant) if self.quant in shipped("quant") else load_quant(self.quant)
        )

    @property
    def kv(self) -> NumberFormat:
        """Format of the codes in cache records."""
        return get_format(self.kv_format)

    @property
    def serial_operands(self) -> bool:
        """The activation words of a row group are in one memory, one row after the other.

        Form `da` keeps an operand long enough for it; form `table` needs all rows at once.
        """
        return self.dot == "da"

    @property
    def acc_words(self) -> int:
        """Words of all accumulator banks; a word is a pair of outputs of the rows of a group."""
        return self.acc_banks * self.acc_depth // 2

    @property
    def module_prefix(self) -> str:
        """Start of the name of every Verilog module of this accelerator.

        The configuration's name is in it, so that several exports can be parts of one project.
        """
        return f"lutvar_{re.sub('[^A-Za-z0-9]+', '_', self.name).strip('_')}__"

    @property
    def module(self) -> str:
        """Name of the top module of its Verilog."""
        return f"{self.module_prefix}accelerator"

    @property
    def row_groups(self) -> int:
        """Groups of 16 rows in the array."""
        return self.rows // ROW_GROUP


def load_accelerator(name_or_path: str | Path) -> AcceleratorConfig:
    """Read an accelerator size by name or from a YAML file. Raises ConfigError."""
    config = load_config(AcceleratorConfig, "accelerator", name_or_path)
    quant = load_quant(config.quant)
    if config.input_terms > 1:
        try:
            check_two_terms(quant.plain_format)
        except ValueError as error:
            raise ConfigError(f"{config.name}: input_terms is 2; {error}; set it to 1") from None
    return config
