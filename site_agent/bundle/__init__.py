"""`fedmepd-agent support-bundle`: what helps somebody elsewhere to find a fault, and nothing of patients or secrets.

Collected as text, redacted piece by piece (`redaction`), shown before it is written, and written whole or not at all.
Never in it: keys, bodies of ledgers, updates, masks, anchors, images, weights; of the files that the agent keeps only
names and sizes are told.
"""

from site_agent.bundle.gather import collect
from site_agent.bundle.pack import Entry, write

__all__ = ["Entry", "collect", "write"]
