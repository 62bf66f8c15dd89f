"""The settings of the searchers, validated once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from qcluster.config import Config

__all__ = ["GPConfig", "HPOConfig", "HybridConfig", "VQCConfig"]


class HPOConfig(Config):
    """Which searcher proposes: the module's toggles, in every combination."""

    vqc: bool = False
    """A simulated variational circuit as the model."""
    surrogate: bool = True
    """The Gaussian process as the model."""
    hybrid: bool = False
    """Both, chosen trial by trial; the same as ``vqc`` and ``surrogate`` together."""
    warm_start: bool = False
    """Earlier trials are used when they are given."""

    @property
    def strategy(self) -> str:
        """The name that ``Study(strategy=...)`` takes; without any model a Sobol sequence."""
        if self.hybrid or (self.vqc and self.surrogate):
            return "hybrid"
        return "vqc" if self.vqc else "gp" if self.surrogate else "sobol"


class GPConfig(Config):
    """The Gaussian process searcher."""

    design: Annotated[int, Field(ge=2, le=1000)] = 6
    """Sobol points before the first model."""
    kernel: Literal["auto", "matern", "rbf"] = "auto"
    """auto compares both, with and without a length per parameter, by their posterior."""
    ard: bool = True
    """Whether a model with a length per parameter competes with those of one length."""
    trend: bool = True
    """Whether models may carry a quadratic trend."""
    output_warping: bool = True
    """Whether values may be compressed by a power before they are modelled."""
    input_warping: bool = False
    """Whether parameters may be bent (Kumaraswamy) before they are modelled; not with a prior."""
    acquisition: Literal["logei", "ei"] = "logei"
    """The logarithm of expected improvement, or its formula."""
    batch: Literal["believer", "fantasies"] = "believer"
    """Running trials count as measured at their prediction, or at draws of the posterior, over
    which the improvement is averaged (greedy batch expected improvement)."""
    trust_region: bool = False
    """Whether proposals stay in a box around the best point that grows and shrinks."""


class VQCConfig(Config):
    """The circuit searcher."""

    mode: Literal["features", "variational"] = "features"
    """features: random circuits and a Bayesian head; variational: circuits trained by gradient."""
    design: Annotated[int, Field(ge=2, le=1000)] = 6
    """Sobol points before the first model."""
    circuits: Annotated[int, Field(ge=1, le=32)] | None = None
    """Random circuits whose expectation values are the features, or trained ones in an ensemble;
    None takes 8 or 3."""
    layers: Annotated[int, Field(ge=1, le=8)] | None = None
    """How often a circuit encodes the point; None takes 3, or 2 where it is trained."""
    shots: Annotated[int, Field(ge=1)] | None = None
    """Measurements per expectation value; None is exact."""
    gradient: Literal["parameter-shift", "adjoint"] = "parameter-shift"
    """Of trained circuits; the adjoint method gives the same, faster, where shots are not set."""
    twin: bool = False
    """Fourier features in the circuits' place: the classical comparison."""


class HybridConfig(Config):
    """The searcher with two arms."""

    alternate: bool = False
    """Arms in turn for the first ``early`` trials, then the process, instead of by likelihood."""
    early: Annotated[int, Field(ge=0)] = 17
    """Used with ``alternate``."""
