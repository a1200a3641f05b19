"""The hospital's own policy, `policy.toml`: what it lets the agent do, whatever the coordinator asks. Fails closed.

Without a file the defaults hold, which allow secure aggregation over at least four sites and nothing in clear. A file
that cannot be read, an unknown key or a value of another type is an error, and the agent does not start.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fedmepd.methods import METHODS
from security.membership import DEFAULT_COHORT, LEAST_COHORT, MOST_COHORT, MembershipList
from security.privacy.terms import Budget
from site_agent.config import Config, faults
from site_agent.errors import ConfigError

_DOCUMENTED = "docs/services.md lists every key with its default"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Aggregation(_Section):
    """How updates may be summed."""

    plain: bool = Field(default=False, description="whether runs may take updates in clear")
    minimum_cohort: int = Field(DEFAULT_COHORT, ge=LEAST_COHORT, le=MOST_COHORT, description="fewest sites in a sum")
    assumed_colluders: int = Field(0, ge=0, le=MOST_COHORT, description="sites that may work for the coordinator")


class Limits(_Section):
    """What tightens `[limits]` of the agent's configuration."""

    max_update_bytes: int | None = Field(None, gt=0)
    max_download_bytes: int | None = Field(None, gt=0)
    max_update_norm: float | None = Field(None, gt=0, description="largest L2 norm of an update's changes")


class Allow(_Section):
    """Which runs the site takes part in."""

    methods: tuple[str, ...] | None = Field(None, strict=False)
    runs: tuple[str, ...] = Field(("*",), strict=False, description="patterns of run ids, such as brats-*")

    @field_validator("methods")
    @classmethod
    def _known(cls, methods: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if unknown := [name for name in methods or () if name not in METHODS]:
            raise ValueError(f"{unknown[0]!r} is no method; known are {', '.join(METHODS)}")
        return methods


class Privacy(_Section):
    """What the site may release of its patients in all runs together, and what a single run must promise."""

    epsilon: float | None = Field(
        None, gt=0, description="budget for all runs; without one nothing private is released"
    )
    delta: float | None = Field(None, gt=0, lt=1, description="probability that the guarantee fails; below 1/patients")
    dp_floor: float | None = Field(
        None, gt=0, description="largest epsilon of one run; runs that promise none are refused"
    )
    unprotected: bool = Field(
        default=False,
        description="whether runs without noise are trained although there is a budget, and noted as unaccounted",
    )

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        if (self.epsilon is None) != (self.delta is None):
            given, missing = ("epsilon", "delta") if self.delta is None else ("delta", "epsilon")
            raise ValueError(f"{given} without {missing} is no budget: set both or neither")
        return self

    @property
    def budget(self) -> Budget | None:
        """The budget; None if the hospital sets none."""
        if self.epsilon is None or self.delta is None:
            return None
        return Budget(epsilon=self.epsilon, delta=self.delta)


class Approval(_Section):
    """What waits for a person."""

    members: Literal["list", "person"] = "list"
    runs: Literal["auto", "person"] = "auto"
    configurations: Literal["auto", "person"] = "auto"


class Policy(_Section):
    """The whole file."""

    aggregation: Aggregation = Aggregation()
    limits: Limits = Limits()
    allow: Allow = Allow()
    privacy: Privacy = Privacy()
    approval: Approval = Approval()

    def minimum(self, listed: MembershipList) -> int:
        """Return the fewest sites in a sum: neither the policy nor the signed list can lower the other."""
        return max(self.aggregation.minimum_cohort, listed.minimum_cohort)

    def tightened(self, config: Config) -> Config:
        """Return the agent's configuration with the smaller of both limits."""
        limits = config.limits
        update = {
            name: min(getattr(limits, name), most)
            for name in ("max_update_bytes", "max_download_bytes")
            if (most := getattr(self.limits, name)) is not None
        }
        return config.model_copy(update={"limits": limits.model_copy(update=update)})

    @classmethod
    def of(cls, config: Config) -> Self:
        """Return the policy that a configuration names, else the defaults.

        Raises:
            ConfigError: If the file cannot be read, or a key or value is wrong; every fault is named.
        """
        path = config.agent.policy
        return cls() if path is None else cls.load(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and check a policy.

        Raises:
            ConfigError: If it cannot be read, or a key or value is wrong; every fault is named.
        """
        remedy = f"the agent does not run without its policy; {_DOCUMENTED}"
        try:
            return cls.model_validate(tomllib.loads(path.read_text()))
        except OSError as error:
            raise ConfigError(f"cannot read {path} ({error.strerror})", remedy=remedy) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not TOML ({error})", remedy=remedy) from error
        except ValidationError as error:
            raise ConfigError(f"{path}: {'; '.join(faults(error, cls))}", remedy=remedy) from None
