# SPDX-License-Identifier: Apache-2.0
"""Modules of the right shapes without values, for weights that come from a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


@contextmanager
def unfilled() -> Iterator[None]:
    """Modules made inside are on the meta device: shapes and types, no values, no memory."""
    with torch.device("meta"), _NoInitializers():
        yield


class _NoInitializers(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        # Without memory torch draws normal numbers through its compiler, a second to import.
        if func is nn.init.normal_:
            return (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
