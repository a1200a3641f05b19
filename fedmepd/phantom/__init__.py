"""Phantoms: patients made by the project, so that everything runs without a data-use agreement.

Two kinds: `brain` (a glioma in four MR sequences, BraTS 2020 layout, task `brats`) and `head-neck` (organs at risk in
CT and MR, task `head-neck`). Procedural, seeded and deterministic; they look like what they stand for and carry its
contrasts, sub-region by sub-region, but no result on them is a claim about patients.
"""

from fedmepd.phantom.cohort import write_cohort, write_cohorts
from fedmepd.phantom.patient import KINDS, Kind, PhantomPatient, make_patient
from fedmepd.phantom.plan import CohortSpec, federation_of
from fedmepd.phantom.tissues import BrainTissue, NeckTissue

__all__ = [
    "KINDS",
    "BrainTissue",
    "CohortSpec",
    "Kind",
    "NeckTissue",
    "PhantomPatient",
    "federation_of",
    "make_patient",
    "write_cohort",
    "write_cohorts",
]
