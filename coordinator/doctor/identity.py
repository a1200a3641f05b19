"""Keys and certificates: are they there and ours alone, do they belong together, until when, and under which names."""

from __future__ import annotations

import ipaddress
import socket
import stat
from collections.abc import Iterator
from datetime import datetime, timedelta

from cryptography import x509

from coordinator.config import Config
from protos.disk_findings import examine_user
from protos.findings import Finding, fail, ok, skip, warn
from security.errors import ExpiredError, NotYetValidError, SecurityError
from security.folders import IdentityFolder, IssuerFolder, LoadedIdentity
from security.identity import Role
from security.pki.certificates import Usage, split_bundle, verify_chain

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_ANYWHERE = {"0.0.0.0", "::", ""}  # noqa: S104  compared with, not listened at
_ISSUER_SOON, _ROOT_SOON = timedelta(days=120), timedelta(days=365)


def folder(config: Config) -> Finding:
    """Look at the data folder and its rights."""
    what, data = "folder", config.coordinator.data
    try:
        mode = data.stat().st_mode
        if (found := examine_user(what, data, command="fedmepd-coordinator doctor")) is not None:
            return found
        list(data.iterdir())
    except FileNotFoundError:
        return fail(what, f"there is no {data}", "fedmepd-coordinator init makes it; or check coordinator.data")
    except OSError as error:
        return fail(what, f"{data} cannot be read ({error.strerror})", "run as the coordinator's user")
    if mode & _OTHERS:
        return warn(what, f"{data} is open to other users", f"chmod 700 {data}")
    return ok(what, f"{data}, for this user only")


def load(config: Config, passphrase: bytes | None) -> tuple[LoadedIdentity | None, Finding]:
    """Load the identity, if it can be, and say so."""
    home = IdentityFolder(config.coordinator.data / "identity")
    if not home.has_certificate:
        return None, fail("identity", f"{home.path} holds no certificate", "fedmepd-coordinator init makes it")
    try:
        loaded = home.load(passphrase)
    except SecurityError as error:
        return None, fail("identity", error.problem, error.remedy or "set FEDMEPD_KEY_PASSPHRASE if keys are sealed")
    return loaded, ok("identity", f"{loaded.identity}")


def certificates(config: Config, loaded: LoadedIdentity, passphrase: bytes | None, now: datetime) -> Iterator[Finding]:
    """Look at the coordinator's, the issuer's and the root's certificate, and at the names in the first."""
    yield _own(loaded, now)
    yield _issuer(config, passphrase, now)
    root = loaded.trust.root
    remedy = "plan a new root: ops/runbooks/rotate-ca.md"
    yield _lifetime("root", root, now, soon=_ROOT_SOON, remedy=remedy)
    yield _names(config, loaded)


def _own(loaded: LoadedIdentity, now: datetime) -> Finding:
    what, facts = "certificate", loaded.facts
    leaf, *above = split_bundle(loaded.chain_pem)
    try:
        verify_chain(leaf, above, loaded.trust.root, now=now, usage=Usage.SERVER, role=Role.COORDINATOR)
    except NotYetValidError as error:
        return fail(what, error.problem, "check this machine's clock (NTP)")
    except ExpiredError as error:
        return fail(what, error.problem, "start the service with the right clock: it renews its own certificate")
    except SecurityError as error:
        return fail(what, error.problem, error.remedy or "restore the folder, or run init anew in another")
    until = f"until {facts.not_after:%Y-%m-%d %H:%M} UTC"
    if now >= facts.renew_after:
        return warn(what, f"{until}; its renewal is due", "let the service run: it renews by itself")
    return ok(what, until)


def _issuer(config: Config, passphrase: bytes | None, now: datetime) -> Finding:
    try:
        authority = IssuerFolder(config.coordinator.data / "issuer").load(passphrase)
    except SecurityError as error:
        return fail("issuer", error.problem, error.remedy or "restore the folder from a backup")
    remedy = "fedmepd-coordinator issuer renew, or install: the consortium's root certifies it anew"
    return _lifetime("issuer", authority.certificate, now, soon=_ISSUER_SOON, remedy=remedy)


def _lifetime(what: str, certificate: x509.Certificate, now: datetime, *, soon: timedelta, remedy: str) -> Finding:
    until = certificate.not_valid_after_utc
    if now < certificate.not_valid_before_utc:
        return fail(
            what, f"is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC", "check the clock (NTP)"
        )
    if now >= until:
        return fail(what, f"expired at {until:%Y-%m-%d %H:%M} UTC", remedy)
    if until - now < soon:
        return warn(what, f"expires at {until:%Y-%m-%d}", remedy)
    return ok(what, f"until {until:%Y-%m-%d}")


def _names(config: Config, loaded: LoadedIdentity) -> Finding:
    """Compare the names that sites may use with where the service listens."""
    what, facts = "names", loaded.facts
    listed = (*facts.dns_names, *map(str, facts.ip_addresses))
    host = config.coordinator.listen.rpartition(":")[0].strip("[]")
    text = f"certified for {', '.join(listed)}"
    if host in _ANYWHERE or host in listed:
        unknown = [name for name in facts.dns_names if not _resolves(name)]
        if unknown:
            remedy = "add it to DNS (sites may see another DNS than this machine)"
            return warn(what, f"{text}; {unknown[0]} cannot be resolved here", remedy)
        return ok(what, text)
    if _is_address(host) and any(host in _addresses(name) for name in facts.dns_names):
        return ok(what, text)
    return warn(
        what,
        f"{text}, and listens at {host}, which is none of them",
        "sites must use a certified name that leads here; another name needs another init",
    )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _resolves(name: str) -> bool:
    return bool(_addresses(name))


def _addresses(name: str) -> set[str]:
    try:
        return {str(row[4][0]) for row in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)}
    except OSError:
        return set()


def unknown_identity() -> Finding:
    """Say what is not looked at without an identity."""
    return skip("certificate", "not looked at without the identity")
