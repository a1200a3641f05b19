"""The ledger of the lead hospital's privacy budget: is it ours and whole, how much is left, may anything leave."""

from __future__ import annotations

from pathlib import Path

from coordinator.config import Config, Privacy
from protos.findings import Finding, fail, ok, skip, warn
from security.errors import SecurityError
from security.folders import LoadedIdentity
from security.keys import public_bytes
from security.privacy import exports

_WHAT = "privacy"
_REMEDY = "fedmepd-admin privacy report shows what for"
_STOPPED = "rolled-back"


def examine_ledger(config: Config, loaded: LoadedIdentity | None) -> Finding:
    """Look at the ledger; the service may be writing it meanwhile."""
    path = config.ledger_path
    stopped = path.parent / _STOPPED
    if stopped.exists():
        return fail(
            _WHAT, "others have seen more of the ledger than there is: nothing private is released", f"see {stopped}"
        )
    if not path.exists():
        if config.privacy is None:
            return skip(_WHAT, "no budget: private runs are refused")
        return skip(_WHAT, "no ledger yet: it is begun when the service is started")
    try:
        return _whole(path, config, loaded)
    except SecurityError as error:
        return fail(_WHAT, error.problem, error.remedy or "put the newest copy back (docs/privacy.md)")
    except OSError as error:
        return fail(_WHAT, f"{path} cannot be read ({error.strerror})", "run as the coordinator's user")


def _whole(path: Path, config: Config, loaded: LoadedIdentity | None) -> Finding:
    consortium = None if loaded is None else loaded.identity.consortium
    keys = None if loaded is None else {loaded.identity.uri: public_bytes(loaded.identity_key)}
    (found,) = exports.verify([path], consortium=consortium, keys=keys).ledgers
    if loaded is not None and found.owner != loaded.identity.uri:
        return fail(_WHAT, f"{path} is the ledger of {found.owner}", "put this coordinator's own one back")
    return _left(found, config.privacy)


def _left(found: exports.Verified, wanted: Privacy | None) -> Finding:
    if found.unbounded:
        return warn(_WHAT, "patients were used without a guarantee: the total is unbounded", _REMEDY)
    if wanted is None:
        if not found.debits:
            return ok(_WHAT, "no budget, and nothing was spent")
        return warn(_WHAT, f"epsilon {found.spent:.4g} was spent, and [privacy] sets no budget any more", _REMEDY)
    text = f"epsilon {found.spent:.4g} of {wanted.epsilon:g} was spent"
    if found.debits and found.debits[-1].budget.delta != wanted.delta:
        return warn(_WHAT, f"{text} at another delta than [privacy] says: how much is left is not stated", _REMEDY)
    if found.spent >= wanted.epsilon:
        return warn(_WHAT, f"{text}: private runs are refused", _REMEDY)
    return ok(_WHAT, text)
