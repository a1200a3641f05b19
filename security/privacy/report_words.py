"""What a privacy report says in words: what is protected, from what, under which assumptions.

One place for every sentence that a privacy officer signs, so that the page, the terminal and the documents say the
same. No figures here, and nothing that is not true of the mechanisms of SPEC 14 and 15.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

RELATION = "one training patient more or less"
NEIGHBOURS = (
    "Two sets of training patients are neighbours if one holds one patient more than the other, with all images, "
    "labels and crops of that patient, while who validates and who tests is held fixed. How many patients train is "
    "taken to be public."
)
MEANING = (
    "Epsilon and delta bound what anybody learns about one training patient from everything that was released, "
    "whatever else they know and however they compute: no outcome is more than e^epsilon times as likely with that "
    "patient in training as without, but for a probability of delta. They answer whether a patient trained, not quite "
    "whether a patient is in the hospital: where parts of the cohort are drawn to validate and test, one patient more "
    "can put up to three in or out of training, and for that question epsilon counts three times, and delta more than "
    "that. They say nothing of what was not released through this ledger: scores on validation and test patients are "
    "not noised, how long a round takes is not hidden, and neither is that a hospital declines because a patient "
    "cannot be used."
)
CONDITIONAL = (
    "the figure is conditional on the weights with which the features were computed: these weights were trained on "
    "the same patients without a guarantee and were released too"
)
NO_BUDGET = "no budget is in force, and what is used without one need not be recorded"
NOT_KNOWN = "not known"
SINGLE_EXPORT = (
    "One export alone does not show that its end was cut off, that there is a second ledger, or that a backup was "
    "restored. Exports of the other parties do: each notes the newest entry of the others. Verify several together."
)
VETO = (
    "The owner of the server's patients runs the coordinator: that the program stops at the budget is an "
    "organisational promise there, not a technical one. The ledger shows afterwards whether it was kept."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mechanism:
    """A way of releasing something under a guarantee, in words.

    Attributes:
        title: Its name.
        released: What leaves.
        assumptions: What must hold for the figure to hold.
    """

    title: str
    released: str
    assumptions: str


MECHANISMS: Mapping[str, Mechanism] = {
    "anchors": Mechanism(
        title="anchors",
        released="noised sums of the patients' features per class, which all sites calibrate by",
        assumptions=(
            "Each patient is one vector (features of all classes and levels, and how much there is of each class), "
            "clipped to the L2 norm C before it is summed. The sum gets Gaussian noise of standard deviation noise "
            "times C, drawn exactly over integers, from the machine's own source of randomness. Every patient takes "
            "part in each release."
        ),
    ),
    "training": Mechanism(
        title="training (DP-SGD)",
        released="weights after steps of noised gradients; the training loss is left out",
        assumptions=(
            "In each step every patient is drawn independently with the probability rate. A patient's gradient over "
            "all its crops is clipped to the L2 norm C before it is summed; the sum gets Gaussian noise of standard "
            "deviation noise times C. Draws and noise come from the machine's own source of randomness. Every step "
            "is counted as if it had been seen. That noise in floating-point numbers hides a patient as exact noise "
            "would is a precaution, not a proof."
        ),
    ),
}


def when(at: datetime) -> str:
    """Return a time in UTC, to the minute."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M}"


def gap(first: datetime, last: datetime | None) -> str:
    """Return what follows from a time without a budget, after there had been one."""
    if last is None:
        return f"no budget is in force since {when(first)}, and what is used without one need not be recorded"
    return f"no budget was in force from {when(first)} to {when(last)}, and what was used then need not be recorded"


def mechanism(name: str) -> Mechanism:
    """Return the words of a mechanism; those of one that this version does not know say so."""
    return MECHANISMS.get(name) or Mechanism(
        title=name,
        released="not known to this version",
        assumptions="A newer version made these entries: read its report for what they assume.",
    )
