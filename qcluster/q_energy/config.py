"""The energy room's toggles and limits: one frozen object in Python, YAML, CLI and HTTP."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from qcluster.config import Config

__all__ = ["EnergyConfig"]

Share = Annotated[float, Field(gt=0, le=1)]
Watts = Annotated[float, Field(ge=0, le=1e9)]


class EnergyConfig(Config):
    """What the planner may do and must keep."""

    qaoa: bool = False
    """Rework windows at the peak of dependent jobs with simulated QAOA."""
    gnn: bool = True
    """Share the budget over the whole cluster by speeds that a graph network predicts, where it
    knows such GPUs; elsewhere by the physical model."""
    meta: bool = False
    """Choose among pipelines window by window, from what each would have cost: any when no other
    toggle is on, else those that are on and the safe one. All three off, every node keeps to its
    own share by nameplate and is planned alone."""
    hold: Literal["caps", "draw"] = "caps"
    """What stays within the budget: the sum of caps, whatever GPUs do; or the draw that is
    predicted under them, learned while jobs run, with a reserve for new ones, which lets more
    work run. Planning by draw needs live telemetry; a recorded trace is planned by caps."""
    budget_mean_s: Annotated[float, Field(ge=0, le=60)] = 0.0
    """Seconds over which the budget is a mean, with hold draw: a new job's draw counts until the
    next plan has seen it, so plans made more often than this need a smaller reserve. 0: the budget
    holds between any two plans. How often
    plans are made is the host's choice, 2 s unless ``--period-s`` says else."""
    weights: str | None = None
    """A directory that ``qcluster train`` wrote, for the graph network, the chooser of pipelines or
    both; read again as soon as its files change, so a refit from stored history takes effect at the
    next plan. None: the weights that come with the package."""
    power_modes: bool = False
    """Let dependent jobs run slower at lower power where that lowers the peak in time."""
    budget_w: Watts | None = None
    """Watts for everything; None takes ``budget_share`` of nameplate, with a warning."""
    budget_share: Share = 0.8
    """Share of nameplate that is the budget when none is given."""
    max_ramp_w: Watts | None = None
    """How far the sum of caps may move from the plan in force, up or down; None: no limit."""
    max_moved: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of caps that may change against the plan in force; None: all."""
    window_s: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    """Length of the window that a plan is for, and of the history it reads, in seconds."""
    host_share: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Share of a node's AC power that is not its GPUs', where the GPUs are not metered."""
    memory_bound: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Share of a kernel's time that does not follow the SM clock, where no counter tells."""
    stretch: Annotated[float, Field(ge=1, le=100)] = 1.2
    """Deadline of jobs that name none, as a multiple of their critical path."""

    @model_validator(mode="after")
    def _limits_need_sharing(self) -> Self:
        shared = self.qaoa or self.gnn or self.meta
        if not shared and (self.max_ramp_w is not None or self.max_moved is not None):
            raise ValueError("max_ramp_w and max_moved need qaoa, gnn or meta")
        if self.hold == "draw" and (self.max_ramp_w is not None or self.max_moved is not None):
            raise ValueError("max_ramp_w and max_moved need hold caps")
        if self.hold == "caps" and self.budget_mean_s > 0:
            raise ValueError("budget_mean_s needs hold draw")
        return self
