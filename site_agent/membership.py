"""The signed membership list at the site: verified with the pinned key, never older than one seen before (SPEC 5.4).

The coordinator passes the list on but cannot make one. Before it trains, the site must find itself in it, with its own
identity key and modalities.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from fedmepd.durable import write_bytes
from security import keys, membership
from security.errors import MembershipError, SecurityError
from security.folders import LoadedIdentity
from security.membership import MembershipList
from security.membership_file import from_json
from security.pki.trust import Trust
from site_agent.errors import NotAMemberError, StateError
from site_agent.faults import disk
from site_agent.monitoring.seen import Membership


class Standing:
    """The newest list that was seen, on disk.

    Args:
        path: Its file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def check(
        self, unverified: bytes | None, *, loaded: LoadedIdentity, own: Sequence[str], now: datetime
    ) -> MembershipList:
        """Verify and keep a list, and find the site in it.

        Args:
            unverified: What the coordinator sent; None if it has no list yet.
            loaded: Who we are and whom we trust.
            own: The site's modalities.
            now: The time.

        Raises:
            NotAMemberError: If the list does not hold the site as it is.
            SecurityError: If the list is not to be believed.
            StorageError: If it cannot be kept.
        """
        if unverified is None:
            raise NotAMemberError(
                "there is no signed membership list yet", remedy="the consortium's administrator must sign one"
            )
        signed, seen = from_json(unverified), self.kept(loaded.trust, loaded.identity.consortium, now)
        least = 0 if seen is None else seen.version
        listed = membership.verify(
            signed, loaded.trust.membership_key, consortium=loaded.identity.consortium, at_least_version=least, now=now
        )
        if seen is not None:
            membership.check_succession(seen, listed)
        if seen is None or listed.version > seen.version:
            with disk(self._path):
                write_bytes(self._path, unverified)
        _find(listed, loaded, own, now)
        return listed

    def remembered(self, loaded: LoadedIdentity, own: Sequence[str], now: datetime) -> Membership | None:
        """Return what the newest list that was seen says of the site; None if none was seen.

        Raises:
            StateError: If the file is damaged.
        """
        listed = self.kept(loaded.trust, loaded.identity.consortium, now)
        if listed is None:
            return None
        try:
            _find(listed, loaded, own, now)
        except NotAMemberError as error:
            return Membership(version=listed.version, problem=error.problem)
        return Membership(version=listed.version)

    def kept(self, trust: Trust, consortium: str, now: datetime) -> MembershipList | None:
        """Return the newest list that was seen, verified again; None if none was.

        Raises:
            StateError: If the file is damaged.
        """
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(f"{self._path} cannot be read ({error.strerror})") from error
        try:
            key = trust.membership_key
            return membership.verify(from_json(content), key, consortium=consortium, at_least_version=0, now=now)
        except SecurityError as error:
            raise StateError(
                f"{self._path} is damaged: {error.problem}",
                remedy="restore it from a backup; removing it forgets which lists were seen",
            ) from error


def _find(listed: MembershipList, loaded: LoadedIdentity, own: Sequence[str], now: datetime) -> None:
    try:
        member = listed.member(loaded.identity.id, now)
    except MembershipError as error:
        raise NotAMemberError(error.problem, remedy=error.remedy) from error
    if member.identity_key != keys.public_bytes(loaded.identity_key):
        raise NotAMemberError(
            f"the membership list {listed.version} holds another identity key for {member.site}",
            remedy="tell the consortium's administrator at once; a new list must be signed",
        )
    if set(member.modalities) != set(own):
        raise NotAMemberError(
            f"the membership list {listed.version} holds {', '.join(member.modalities)} for {member.site}, "
            f"the configuration {', '.join(sorted(own))}",
            remedy="correct cohort.modalities, or ask for a new list",
        )
