"""Options of the methods that come with picie; importing them does not import torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from picie.config.sections import Section


class MDCOptions(Section):
    """Options of the baseline MDC."""

    classifier: Literal["linear", "centroids"] = Field(
        "linear", description="trained 1x1 classifier, reinitialised each epoch, or the frozen centroids"
    )
    lr: Annotated[float, Field(gt=0)] = Field(1e-2, description="learning rate of the classifier")
