# SPDX-License-Identifier: Apache-2.0
"""Enums of the number formats: members are the strings of files, in YAML, JSON and text."""

from __future__ import annotations

import json

import pytest

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.formats.ties import TieRule
from lutvar.contract.identity import accelerator_hash
from lutvar.contract.quant_preset import QuantConfig, load_quant
from lutvar.quant.formats.grouping import GranularityKind
from lutvar.quant.formats.scales import SCALE_RULES, ScaleRule
from lutvar.quant.methods.quantizers.spec import QuantizerSpec, ScaleType, Sharing
from lutvar.text import TextEnum


@pytest.mark.parametrize("kind", [TieRule, ScaleRule, GranularityKind, ScaleType, Sharing])
def test_members_are_their_strings(kind: type[TextEnum]) -> None:
    for member in kind:
        word = member.value
        assert member == word and hash(member) == hash(word)
        assert f"{member}" == str(member) == word
        assert json.dumps(member) == json.dumps(word)
        assert kind(word) is member


def test_every_scale_rule_has_a_method() -> None:
    assert set(SCALE_RULES) == set(ScaleRule)


def test_presets_read_and_write_the_strings() -> None:
    values = load_quant("fp4").model_dump()
    config = QuantConfig.model_validate({**values, "ties": "up"})
    assert config.ties is TieRule.UP
    assert '"ties":"up"' in config.model_dump_json()
    with pytest.raises(ValueError, match="'even', 'up' or 'down'"):
        QuantConfig.model_validate({**values, "ties": "odd"})


def test_specs_read_and_write_the_strings() -> None:
    text = '{"format":"INT4","group":"row","scale":"fp16","exact_rule":"pow2"}'
    spec = QuantizerSpec.model_validate_json(text)
    assert (spec.group, spec.scale, spec.exact_rule) == ("row", "fp16", "pow2")
    assert isinstance(spec.group, Sharing) and isinstance(spec.scale, ScaleType)
    assert spec.model_dump_json(exclude_unset=True) == text
    assert QuantizerSpec(format="INT4", group=64).group == 64


def test_the_hash_of_an_accelerator_is_as_before() -> None:
    assert f"{accelerator_hash(load_accelerator('small-fp4')):016x}" == "e2dd5cf8160e5fb5"
