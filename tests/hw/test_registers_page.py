# SPDX-License-Identifier: Apache-2.0
"""docs/registers.md is what the register table makes of it."""

from pathlib import Path

from lutvar.contract.registers import REGISTERS, ErrorCode
from lutvar.hw.top.registers_page import page

PAGE = Path(__file__).parents[2] / "docs" / "registers.md"


def test_page_is_up_to_date() -> None:
    command = "python -m lutvar.hw.top.registers_page docs/registers.md"
    assert PAGE.read_text() == page(), f"the table has changed; run: {command}"


def test_page_names_every_register_field_and_error() -> None:
    text = page()
    for register in REGISTERS:
        assert f"| `0x{register.offset:02X}` | {register.name} |" in text
        assert all(field.name in text for field in register.fields)
    for code in ErrorCode:
        assert f"| {int(code)} | {code.name} |" in text
