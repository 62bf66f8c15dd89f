"""The settings of the searchers, validated once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from qcluster.config import Config

__all__ = ["GPConfig"]


class GPConfig(Config):
    """The Gaussian process searcher."""

    design: Annotated[int, Field(ge=2, le=1000)] = 6
    """Sobol points before the first model."""
    kernel: Literal["auto", "matern", "rbf"] = "auto"
    """auto compares both, with and without a length per parameter, by their posterior."""
    trend: bool = True
    """Whether models may carry a quadratic trend."""
    acquisition: Literal["logei", "ei"] = "logei"
    """Both have the same maximum; ei is the formula itself, flat where it underflows."""
    input_warping: bool = False
    """Whether inputs may be warped (Kumaraswamy)."""
    output_warping: bool = True
    """Whether values may be compressed by a power before they are modelled."""
