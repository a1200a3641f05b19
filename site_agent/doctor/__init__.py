"""`fedmepd-agent doctor`: looks at everything between this machine and a working site, and says what to do about it.

It changes nothing, and may be run beside a running agent: it takes no lock, and what it writes to measure the disk is
gone again before it answers.
"""

from protos.findings import Finding, Verdict
from site_agent.doctor.rounds import examine

__all__ = ["Finding", "Verdict", "examine"]
