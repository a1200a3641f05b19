"""What a site's update tells about its patients, in clear, masked, and in a sum.

A demonstration on phantoms, and no measure of risk: who relies on a number must measure on his own data, with the best
attack he can think of. The attack uses what the coordinator of a run holds and nothing else; the masks come in as a
function, because this package knows no `security`.
"""

from fedmepd.leak.chance import Area, area, roc
from fedmepd.leak.demo import Leak, Mask, View, demonstrate
from fedmepd.leak.membership import Evidence, gather_evidence
from fedmepd.leak.picture import draw
from fedmepd.leak.scene import Hospital, Scene, Setup, stage

__all__ = [
    "Area",
    "Evidence",
    "Hospital",
    "Leak",
    "Mask",
    "Scene",
    "Setup",
    "View",
    "area",
    "demonstrate",
    "draw",
    "gather_evidence",
    "roc",
    "stage",
]
