"""The membership list: which sites count, with which identity keys and modalities (SPEC 5).

Signed offline with the membership key, which the coordinator does not have: a coordinator that certifies a site that
is not listed gains nothing. A list is valid in one form only: sorted, without duplicates. It also says over how few
sites anything may be summed; each site may demand more, none less (SPEC 10.10).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from security.encoding import digest, frame, integer, moment, text
from security.errors import IdentityError, MembershipError
from security.identity import check_consortium, check_id
from security.keys import IDENTITY_KEY_BYTES, verify_signature

LEAST_COHORT = 3
MOST_COHORT = 4096
DEFAULT_COHORT = 4
_LABEL = "fedmepd/membership"
_VERSION = 2
_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A site that counts.

    Attributes:
        site: Its id.
        identity_key: Its Ed25519 public key, 32 bytes.
        modalities: The modalities it owns, sorted.
        valid_from: Begin of the membership.
        valid_until: End of the membership, exclusive.

    Raises:
        MembershipError: If a field is malformed.
    """

    site: str
    identity_key: bytes
    modalities: tuple[str, ...]
    valid_from: datetime
    valid_until: datetime

    def __post_init__(self) -> None:
        try:
            for name in (self.site, *self.modalities):
                check_id(name)
        except IdentityError as error:
            raise MembershipError(error.problem, remedy=error.remedy) from error
        if len(self.identity_key) != IDENTITY_KEY_BYTES:
            raise MembershipError(f"the identity key of {self.site} has {len(self.identity_key)} bytes instead of 32")
        if not self.modalities or not _is_increasing(self.modalities):
            raise MembershipError(
                f"the modalities of {self.site} are empty, not sorted or listed twice", remedy="list each once, sorted"
            )
        if not moment(self.valid_from) < moment(self.valid_until):
            raise MembershipError(f"the membership of {self.site} ends before it begins")

    @property
    def encoded(self) -> bytes:
        """The canonical bytes (SPEC 5.1)."""
        return frame(
            "fedmepd/member",
            1,
            text(self.site),
            self.identity_key,
            moment(self.valid_from),
            moment(self.valid_until),
            *(text(name) for name in self.modalities),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipList:
    """All sites that count, in one version.

    Attributes:
        consortium: Name of the consortium.
        version: Grows with each list; from 1.
        issued_at: When it was made.
        minimum_cohort: The fewest sites over which anything may be summed, 3 to 4096.
        members: Sorted by site.

    Raises:
        MembershipError: If a field is out of range, members are not sorted, or two share an id or an identity key.
    """

    consortium: str
    version: int
    issued_at: datetime
    minimum_cohort: int = DEFAULT_COHORT
    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        try:
            check_consortium(self.consortium)
        except IdentityError as error:
            raise MembershipError(error.problem, remedy=error.remedy) from error
        if not 1 <= self.version < 1 << 64:
            raise MembershipError(f"the membership version {self.version} is not from 1 to 2^64 - 1")
        moment(self.issued_at)
        check_minimum_cohort(self.minimum_cohort)
        if twice := _repeated(member.site for member in self.members):
            raise MembershipError(f"the site {twice} is listed twice", remedy="list each site once")
        if not _is_increasing([member.site for member in self.members]):
            raise MembershipError("the members are not sorted", remedy="sort them by site")
        if twice := _repeated(member.identity_key.hex() for member in self.members):
            raise MembershipError(
                f"two sites have the identity key {twice}", remedy="each site must make a key of its own"
            )

    @property
    def encoded(self) -> bytes:
        """The canonical bytes, which are signed (SPEC 5.2)."""
        return frame(
            _LABEL,
            _VERSION,
            text(self.consortium),
            integer(self.version),
            moment(self.issued_at),
            integer(self.minimum_cohort),
            *(member.encoded for member in self.members),
        )

    @property
    def digest(self) -> str:
        """64 hexadecimal digits that name this list (SPEC 5.3)."""
        return digest("fedmepd/membership-digest", 1, self.encoded).hex()

    def member(self, site: str, now: datetime) -> Member:
        """Return a site's entry.

        Raises:
            MembershipError: If the site is not listed, or not at this time.
        """
        for member in self.members:
            if member.site == site:
                break
        else:
            raise MembershipError(
                f"the site {site} is not on the membership list {self.version}",
                remedy="ask the consortium's administrator to add it and to sign a new list",
            )
        if not member.valid_from <= now < member.valid_until:
            raise MembershipError(
                f"the membership of {site} lasts from {member.valid_from.isoformat()} to "
                f"{member.valid_until.isoformat()} and the clock here says {now.isoformat()}",
                remedy="ask the consortium's administrator for a new list, or check the clock (NTP)",
            )
        return member


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedMembership:
    """A list and a signature that nobody has checked yet.

    Attributes:
        unverified: The list; not to be used before `verify`.
        signature: 64 bytes.
    """

    unverified: MembershipList
    signature: bytes


def check_minimum_cohort(sites: int) -> None:
    """Check that sums over so many sites may be allowed (SPEC 5.2).

    Raises:
        MembershipError: If they are fewer than 3 or more than 4096; says why.
    """
    if sites < LEAST_COHORT:
        raise MembershipError(
            f"the minimum cohort {sites} is below {LEAST_COHORT}: of a sum over two sites, either takes its own update "
            "away and reads the other's",
            remedy=f"choose {LEAST_COHORT} at least, better {DEFAULT_COHORT}",
        )
    if sites > MOST_COHORT:
        raise MembershipError(f"the minimum cohort {sites} is above {MOST_COHORT}")


def sign(membership: MembershipList, membership_key: Ed25519PrivateKey) -> SignedMembership:
    """Sign a list, after people have read its `diff` (SPEC 5.2)."""
    return SignedMembership(unverified=membership, signature=membership_key.sign(membership.encoded))


def verify(
    signed: SignedMembership, public_key: bytes, *, consortium: str, at_least_version: int, now: datetime
) -> MembershipList:
    """Return a list, once it is to be believed (SPEC 5.4).

    Args:
        signed: The list as it came.
        public_key: The pinned membership key, 32 bytes.
        consortium: Our consortium.
        at_least_version: The highest version seen so far; 0 if none was.
        now: The time.

    Raises:
        MembershipError: If the signature is wrong, the list is another consortium's, older than one seen, or from the
            future.
    """
    membership = signed.unverified
    refusal = MembershipError(
        "the membership list is not signed by the pinned membership key, or was altered",
        remedy="ask the consortium's administrator for the signed list; never edit it by hand",
    )
    verify_signature(signed.signature, membership.encoded, public_key, refusal)
    if membership.consortium != consortium:
        raise MembershipError(f"the membership list is for {membership.consortium}, not for {consortium}")
    if membership.version < at_least_version:
        raise MembershipError(
            f"the membership list has version {membership.version}, and version {at_least_version} was seen already",
            remedy="ask the operator for the newest list; an old one may hold sites that were removed",
        )
    if membership.issued_at > now + _SKEW:
        raise MembershipError(
            f"the membership list was made at {membership.issued_at.isoformat()} and the clock here says "
            f"{now.isoformat()}",
            remedy="check this machine's clock and its time service (NTP)",
        )
    return membership


def check_succession(current: MembershipList, candidate: MembershipList) -> None:
    """Check that a verified list may take the place of the current one (SPEC 5.5).

    Raises:
        MembershipError: If it is older, or is another list of the same version.
    """
    if candidate.version < current.version:
        raise MembershipError(f"the membership list {candidate.version} is older than the current {current.version}")
    if candidate.version == current.version and candidate.digest != current.digest:
        raise MembershipError(
            f"there are two different signed membership lists of version {current.version}",
            remedy="stop, and ask the consortium's administrator which of the two is right",
        )


def diff(old: MembershipList | None, new: MembershipList) -> tuple[str, ...]:
    """Return, one line per change, what a person should read before signing.

    First the version; then `!` the minimum cohort if it changes, or if it is below the default in a first list; then
    the sites, `+` new, `-` gone, `~` changed.
    """
    before = {member.site: member for member in old.members} if old else {}
    after = {member.site: member for member in new.members}
    lines = [f"version {old.version if old else 0} -> {new.version}"]
    lines += _cohort_change(old.minimum_cohort if old else DEFAULT_COHORT, new.minimum_cohort)
    for site in sorted(before.keys() | after.keys()):
        if site not in before:
            lines.append(f"+ {site}: {'; '.join(_described(after[site]).values())}")
        elif site not in after:
            lines.append(f"- {site}")
        else:
            was, becomes = _described(before[site]), _described(after[site])
            lines += [f"~ {site}: {was[what]} -> {becomes[what]}" for what in was if was[what] != becomes[what]]
    return tuple(lines)


def _cohort_change(before: int, after: int) -> list[str]:
    if after == before:
        return []
    if after < before:
        fewest = "three" if after == LEAST_COHORT else str(after)
        meaning = f"sums over {fewest} sites become possible"
    else:
        meaning = f"sums over fewer than {after} sites are no longer possible"
    return [f"! minimum cohort {before} -> {after}: {meaning}"]


def _described(member: Member) -> dict[str, str]:
    return {
        "key": f"identity key {member.identity_key.hex()}",
        "modalities": f"modalities {', '.join(member.modalities)}",
        "time": f"from {member.valid_from.astimezone(UTC).isoformat()} "
        f"until {member.valid_until.astimezone(UTC).isoformat()}",
    }


def _is_increasing(names: Iterable[str]) -> bool:
    return all(first < second for first, second in pairwise(names))


def _repeated(names: Iterable[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)
