"""The run as a state machine without input or output: `handle(event, now)` gives a new state and what is to be done.

Everything that decides the course of a run stands in this package. No clock, no disk, no network, no randomness, no
logging: the driver makes the new state durable before it acts on the effects or answers a site, and after a crash asks
`pending(state)` for the effects that may have been lost; all of them can be repeated.

Statements of sites that do not fit (too late, another round) are answered and change nothing. Events of our own that
the table does not declare are programming faults. Terminal stages absorb.

Source: operations.md, "Rounds"; PROTOCOL.md, "Phases"; SPEC 10 and 11.
"""

from coordinator.session.table import begin, handle, pending
from coordinator.session.turn import Answer, Outcome, Stage, stage

__all__ = ["Answer", "Outcome", "Stage", "begin", "handle", "pending", "stage"]
