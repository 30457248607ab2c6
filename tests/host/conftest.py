# SPDX-License-Identifier: Apache-2.0
"""A transport that answers as a test tells it."""

from __future__ import annotations

import pytest

from support.host.transport_double import CONFIG, TransportDouble


@pytest.fixture
def double() -> TransportDouble:
    return TransportDouble(CONFIG)
