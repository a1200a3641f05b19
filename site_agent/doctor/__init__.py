"""`fedmepd-agent doctor`: looks at everything between this machine and a working site, and says what to do about it."""

from site_agent.doctor.findings import Finding, Verdict
from site_agent.doctor.rounds import examine

__all__ = ["Finding", "Verdict", "examine"]
