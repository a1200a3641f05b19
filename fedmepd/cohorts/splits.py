"""Splits: which institution has which cases, and which patients train, validate and test.

The institutions of the FedMEPD paper ship as data (`fedmepd/splits/*.toml`). The split into parts is by patient,
depends on the ids and the seed alone (not on order, paths or other patients' number of cases), and gives every part
that is asked for at least one patient.

Who trains depends on who else is in the cohort, since parts have fixed shares: one patient more puts at most three in
or out of training, itself included. Differential privacy protects patients in training with the division held fixed
(SPEC 14.1).
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from fedmepd.cohorts.case import Case, Cohort
from fedmepd.errors import CohortError, ConfigError

_SERVER = "server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One institution of a split: what it owns and whom it treats."""

    modalities: tuple[str, ...]
    case_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class InstitutionSplit:
    """Cases of a public data set divided among the members of a federation.

    Attributes:
        name: Name for configurations.
        layout: Layout of the data set.
        members: `server` first, then `site-1` and so on.
    """

    name: str
    layout: str
    members: Mapping[str, Member]

    def member_cohort(self, cohort: Cohort, member_id: str) -> Cohort:
        """Return the cases of a member out of the whole data set.

        Raises:
            CohortError: If there is no such member, or the data set lacks one of its cases.
        """
        if member_id not in self.members:
            raise CohortError(
                f"split {self.name!r} has no member {member_id!r}", remedy=f"it has: {', '.join(self.members)}"
            )
        return cohort.subset(self.members[member_id].case_ids, name=member_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Cases by what they are for, each part sorted by case id."""

    train: tuple[Case, ...]
    validate: tuple[Case, ...]
    test: tuple[Case, ...]


def institution_split_names() -> tuple[str, ...]:
    """Return the names of the shipped institution splits."""
    folder = resources.files("fedmepd") / "splits"
    return tuple(sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml")))


def load_institution_split(name: str) -> InstitutionSplit:
    """Load a shipped institution split.

    Raises:
        CohortError: If there is no such split.
    """
    if name not in institution_split_names():
        raise CohortError(f"no institution split {name!r}", remedy=f"use one of {', '.join(institution_split_names())}")
    data = tomllib.loads((resources.files("fedmepd") / "splits" / f"{name}.toml").read_text())
    members = {_SERVER: data[_SERVER], **data["sites"]}
    return InstitutionSplit(
        name=data["name"],
        layout=data["layout"],
        members={
            member_id: Member(modalities=tuple(member["modalities"]), case_ids=_case_ids(data, member))
            for member_id, member in members.items()
        },
    )


def split_cases(cases: Iterable[Case], *, seed: int, validate: float, test: float) -> Split:
    """Divide cases into train, validation and test by patient.

    Args:
        cases: Cases of one institution, in any order.
        seed: Chooses who goes where.
        validate: Fraction of the patients, at least one of them; 0 for no validation part.
        test: Likewise for testing.

    Raises:
        ConfigError: If the fractions are negative or leave nothing to train on.
        CohortError: If there are fewer patients than parts.
    """
    if not (0 <= validate < 1 and 0 <= test < 1 and validate + test < 1):
        raise ConfigError(f"validate {validate} and test {test} must be 0 or more and sum to less than 1")
    by_patient: dict[str, list[Case]] = {}
    for case in cases:
        by_patient.setdefault(case.patient_id, []).append(case)
    parts = 1 + (validate > 0) + (test > 0)
    if len(by_patient) < parts:
        raise CohortError(
            f"{len(by_patient)} patients cannot be divided into {parts} parts",
            remedy="add patients, or set validate and test to 0",
        )
    patients = sorted(by_patient, key=lambda patient: hashlib.sha256(f"{seed}:{patient}".encode()).digest())
    tested, validated = _sizes(len(patients), validate, test)
    ends = {"test": (0, tested), "validate": (tested, tested + validated), "train": (tested + validated, len(patients))}
    chosen = {
        part: tuple(sorted((c for p in patients[first:last] for c in by_patient[p]), key=lambda case: case.case_id))
        for part, (first, last) in ends.items()
    }
    return Split(train=chosen["train"], validate=chosen["validate"], test=chosen["test"])


def _sizes(patients: int, validate: float, test: float) -> tuple[int, int]:
    tested = max(round(patients * test), 1) if test > 0 else 0
    validated = max(round(patients * validate), 1) if validate > 0 else 0
    # Rounding up both can leave nobody to train on: the larger part gives one back.
    while tested + validated >= patients:
        if tested >= validated:
            tested -= 1
        else:
            validated -= 1
    return tested, validated


def _case_ids(data: Mapping[str, Any], member: Mapping[str, Any]) -> tuple[str, ...]:
    prefix = str(data.get("case_prefix", ""))
    names = [str(name) for name in member.get("cases", ())]
    for text in member.get("ranges", ()):
        first, last = re.split("-", text)
        names += [f"{number:0{int(data['digits'])}d}" for number in range(int(first), int(last) + 1)]
    return tuple(prefix + name for name in names)
