"""The ledger of privacy budgets: is it there, whole and ours, may anything be released, how much is left."""

from __future__ import annotations

from pathlib import Path

from protos.findings import Finding, fail, ok, skip, warn
from security.audit_file import records
from security.errors import SecurityError
from security.folders import LoadedIdentity
from security.keys import public_bytes
from security.privacy import exports
from security.privacy.terms import Budget
from site_agent.audit import FILE_NAME as AUDIT
from site_agent.config import Config
from site_agent.errors import AgentError
from site_agent.policy_file import Policy
from site_agent.purse import FILE, TELLING, gone
from site_agent.witnessing import STOPPED

_WHAT = "privacy"
_REMEDY = "fedmepd-agent privacy report shows what for"
_AT_DELTA = "fedmepd-agent privacy report computes it; the next private run is charged at the policy's delta"


def examine_ledger(config: Config, loaded: LoadedIdentity | None) -> Finding:
    """Look at the ledger; an agent may be writing it meanwhile."""
    path = config.data / FILE
    note = path.parent / STOPPED
    try:
        if note.exists():
            why = note.read_text(encoding="utf-8", errors="replace").strip().rstrip(".")
            return fail(_WHAT, f"nothing private is released: {why}", f"see to it, then remove {note}")
        if not path.exists():
            return _absent(path, config.data / AUDIT)
        return _ledger(path, config, loaded)
    except (SecurityError, AgentError) as error:
        return fail(_WHAT, error.problem, error.remedy or "")
    except OSError as error:
        return fail(_WHAT, f"{path} cannot be read ({error.strerror})", "run as the agent's user")


def _absent(path: Path, audit: Path) -> Finding:
    """Say whether an agent would begin a ledger, or not start because there was one."""
    if audit.exists() and any(record.action in TELLING for record in records(audit)):
        error = gone(path)
        return fail(_WHAT, error.problem, error.remedy or "")
    return skip(_WHAT, "no ledger yet: it is begun when the agent is started")


def _ledger(path: Path, config: Config, loaded: LoadedIdentity | None) -> Finding:
    consortium = None if loaded is None else loaded.identity.consortium
    keys = None if loaded is None else {loaded.identity.uri: public_bytes(loaded.identity_key)}
    (found,) = exports.verify([path], consortium=consortium, keys=keys).ledgers
    if loaded is not None and found.owner != loaded.identity.uri:
        return fail(_WHAT, f"{path} is the ledger of {found.owner}", "put this site's own one back")
    wanted = Policy.of(config).privacy.budget
    if wanted is None and not found.debits:
        return ok(_WHAT, "no budget: runs that spend of one are declined")
    if wanted is None:
        return warn(_WHAT, f"epsilon {found.spent:.4g} was spent, and the policy sets no budget any more", _REMEDY)
    return _within(found, wanted)


def _within(found: exports.Verified, wanted: Budget) -> Finding:
    at = found.debits[-1].budget.delta if found.debits else wanted.delta
    left = f"epsilon {found.spent:.4g} of {wanted.epsilon:g} was spent at delta {at:g}"
    if at != wanted.delta:
        left = f"epsilon {found.spent:.4g} was spent at delta {at:g}, and the policy's is {wanted.delta:g} now"
    if found.unbounded:
        return warn(_WHAT, f"{left}; patients were used without a guarantee too: the total is unbounded", _REMEDY)
    if at != wanted.delta:
        return warn(_WHAT, f"{left}: how much is left is not stated", _AT_DELTA)
    if found.spent >= wanted.epsilon:
        return warn(_WHAT, f"{left}: private runs are declined", _REMEDY)
    return ok(_WHAT, left)
