# SPDX-License-Identifier: Apache-2.0
"""URLs of devices: schemes, targets, settings, and what is wrong with them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from lutvar.host.errors import BadInput
from lutvar.host.open import OPENERS, open_transport, parse


def test_a_url_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LUTVAR_ROOT", raising=False)
    address = parse("sim:lutvar?buffer=pool&clock=250&empty=")
    assert (address.scheme, address.target, str(address)) == ("sim", "lutvar", "sim:lutvar")
    assert address.settings == {"buffer": "pool", "clock": "250", "empty": ""}
    assert address.number("clock", 1.0) == 250.0 and address.number("other", 7.0) == 7.0
    assert address.root == Path("/") and str(parse("sim")) == "sim"
    monkeypatch.setenv("LUTVAR_ROOT", "/fake")
    assert parse("sim:x").root == Path("/fake") and parse("sim:x?root=/a").root == Path("/a")


@pytest.mark.parametrize("url", ["usb:lutvar", "", "lutvar", ":uio", "UIO:lutvar"])
def test_unknown_schemes(url: str) -> None:
    with pytest.raises(BadInput, match=r"no transport .*; there are: .*sim"):
        open_transport(url)


def test_settings_that_do_not_exist() -> None:
    with pytest.raises(BadInput, match="sim:a: there is no setting 'clok'; sim has: clock"):
        parse("sim:a?clok=1").allow("clock")
    for text in ("x", "0", "-1", "nan", "inf", ""):
        with pytest.raises(BadInput, match=r"sim:a: clock is .*; write a number greater than 0"):
            parse(f"sim:a?clock={text}").number("clock", 1.0)


@pytest.mark.parametrize("scheme", OPENERS)
def test_every_scheme_has_an_opener(scheme: str) -> None:
    module, _, name = OPENERS[scheme].partition(":")
    assert callable(getattr(import_module(module), name))
