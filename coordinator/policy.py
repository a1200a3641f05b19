"""The federation policy of a run: how sites are summed, how long to wait for whom, how many are enough. Serialisable.

Source: operations.md, "Rounds".
"""

from __future__ import annotations

from math import ceil
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Policy(BaseModel):
    """The `[federation]` section of a run's configuration; all durations in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    aggregation: Literal["secure", "plain"] = Field(
        "secure", description="whether the coordinator sees sums only, or every site's update"
    )
    quorum: float = Field(0.6, gt=0, description="sites that a round needs: below 1 a share of all, else a number")
    grace_s: float = Field(60.0, ge=0, description="a round never closes without a site before this")
    absent_s: float = Field(120.0, gt=0, description="a site that says nothing for so long is absent")
    first_deadline_s: float = Field(14400.0, gt=0, description="for training, before a site's pace is known")
    least_deadline_s: float = Field(300.0, gt=0, description="no training deadline is shorter")
    deadline_factor: float = Field(3.0, ge=1, description="a site's deadline, in multiples of its usual time")
    stall_s: float = Field(600.0, gt=0, description="an upload without progress for so long is given up")
    step_s: float = Field(120.0, gt=0, description="a site that takes longer for a step of secure aggregation is out")
    step_grace_s: float = Field(
        10.0, ge=0, description="and in the last two steps also who is later than this after enough others answered"
    )
    least_upload_bytes_per_s: float = Field(
        16384.0, gt=0, description="an upload may take its size at this rate, and stall_s more, however it goes on"
    )
    retries: int = Field(1, ge=0, description="further attempts at a round that failed")
    failed_rounds: int = Field(3, ge=1, description="consecutive failed rounds that end the run")
    keep_models: int = Field(3, ge=1, description="latest model versions whose files are kept")
    keep_every: int = Field(50, ge=1, description="and every so many rounds")

    def needed(self, sites: int) -> int:
        """Return how many of a run's sites a round needs."""
        return max(1, min(sites, ceil(self.quorum * sites - 1e-9) if self.quorum < 1 else round(self.quorum)))

    def training_limit(self, usual_s: float | None) -> float:
        """Return how long a site may train, given how long it usually takes."""
        if usual_s is None:
            return self.first_deadline_s
        return max(self.least_deadline_s, self.deadline_factor * usual_s)

    def upload_limit(self, size: int) -> float:
        """Return how long an upload of so many bytes may take in all."""
        return self.stall_s + size / self.least_upload_bytes_per_s

    def keeps(self, round_number: int, latest: int) -> bool:
        """Whether the model file of a round is kept once `latest` is published."""
        return round_number > latest - self.keep_models or round_number % self.keep_every == 0
