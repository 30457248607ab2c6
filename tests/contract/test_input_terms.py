# SPDX-License-Identifier: Apache-2.0
"""Which accelerators can have inputs in two terms."""

from __future__ import annotations

from pathlib import Path

import pytest

import lutvar
from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.errors import ConfigError
from lutvar.yaml_files import shipped

CONFIGS = Path(lutvar.__file__).parent / "configs"


def test_shipped_sizes_have_two_terms() -> None:
    assert {load_accelerator(name).input_terms for name in shipped("accelerator")} == {2}


def test_a_format_with_wide_gaps_has_one_term(tmp_path: Path) -> None:
    quant, size = tmp_path / "wide.yaml", tmp_path / "size.yaml"
    text = (CONFIGS / "quant/fp6-single.yaml").read_text(encoding="utf-8")
    quant.write_text(text.replace("E2M3", "E3M2").replace("fp6-single", "wide"), encoding="utf-8")
    text = (CONFIGS / "accelerator/small-fp6.yaml").read_text(encoding="utf-8")
    text = text.replace("quant: fp6", f"quant: {quant}").replace("small-fp6", "size")
    size.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"size: input_terms is 2; levels of E3M2"):
        load_accelerator(size)
    size.write_text(text + "input_terms: 1\n", encoding="utf-8")
    assert load_accelerator(size).input_terms == 1
