# SPDX-License-Identifier: Apache-2.0
"""What steps have in common, and how a recipe's entry becomes a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from lutvar.quant.methods.calibration.network import WholeModel
from lutvar.quant.methods.layers.layer import Block, Layer, Step
from lutvar.quant.methods.layers.ranged import leaves
from lutvar.quant.methods.plugins import Registry
from lutvar.quant.var.sites import SiteName
from lutvar.yaml_files import explain


class StepBase(BaseModel, ABC):
    """Settings common to steps; a step's own settings are further fields.

    Attributes:
        step: its name.
        sites: linears that it works on; default all that the recipe covers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    #: Whether `apply` reads `block.data`, whatever the settings.
    reads_data: ClassVar[bool] = False

    step: str
    sites: tuple[SiteName, ...] | None = None

    @property
    def needs_data(self) -> bool:
        """Whether `apply` reads `block.data` under these settings."""
        return self.reads_data

    @property
    def needs_importance(self) -> tuple[SiteName, ...]:
        """Linears whose `block.data.importance` `apply` reads."""
        return ()

    def layers_in(self, block: Block) -> list[Layer]:
        """The layers of this block that the step works on; of split ones, the parts."""
        return [
            part
            for name, layer in block.layers.items()
            if self.sites is None or name in self.sites
            for part in leaves(layer)
        ]

    @abstractmethod
    def apply(self, block: Block) -> None:
        """Change the layers of a block."""


class ModelStep(StepBase):
    """A step that works on all blocks at once, between the steps before and those after it.

    The steps before it have been over the whole model by then, and every layer is in memory.
    """

    reads_data: ClassVar[bool] = True
    #: Whether `apply` goes over the blocks when `apply_model` has looked at the model; blocks that
    #: an interrupted run has finished are left out then.
    then_blocks: ClassVar[bool] = False

    def apply(self, block: Block) -> None:
        """Refuse.

        Raises:
            ValueError: always; `apply_model` is what this step has.
        """
        raise ValueError(f"step {self.step} works on the whole model, not on block {block.index}")

    @abstractmethod
    def apply_model(self, model: WholeModel) -> None:
        """Change the layers of a model, none of which is rounded yet."""


#: The steps that are known, by name.
STEPS: Registry[type[StepBase]] = Registry("step", __package__, "lutvar.steps")
#: Decorator: makes a step known to recipes under a name.
register_step = STEPS.register


def make_step(settings: Mapping[str, Any]) -> Step:
    """The step that a recipe's entry describes.

    Raises:
        ValueError: unknown step or setting or a value that the step refuses.
    """
    name = settings.get("step")
    step = STEPS.get(name)
    try:
        return step(**settings)
    except ValidationError as error:
        raise ValueError(f"step {name!r}: {explain(error, step)}") from error
