"""The membership list as a JSON file that people can read and mail around (SPEC 5.6).

The signature is over the canonical bytes, not over this file: white space and order of fields do not matter.
"""

from __future__ import annotations

import json
from typing import Any

from security import strict_json
from security.errors import EncodingError, MembershipError
from security.membership import Member, MembershipList, SignedMembership

MAX_FILE_BYTES = 1024 * 1024


def to_json(signed: SignedMembership) -> bytes:
    """Return a signed list as JSON."""
    document = _document(signed.unverified) | {"signature": signed.signature.hex()}
    return json.dumps(document, indent=2).encode() + b"\n"


def unsigned_to_json(membership: MembershipList) -> bytes:
    """Return a list that is still to be signed as JSON."""
    return json.dumps(_document(membership), indent=2).encode() + b"\n"


def from_json(unverified_document: bytes) -> SignedMembership:
    """Return the list in a file; whether it is to be believed says `membership.verify`.

    Raises:
        MembershipError: If the file is malformed or not signed.
    """
    try:
        found = strict_json.read_object(unverified_document, MAX_FILE_BYTES)
        signature = bytes.fromhex(found.pop("signature"))
        return SignedMembership(unverified=_membership(found), signature=signature)
    except KeyError:
        raise MembershipError("the membership list is not signed", remedy="sign it with the membership key") from None
    except (ValueError, TypeError, EncodingError) as error:
        raise MembershipError(f"the membership list is malformed: {error}") from None


def unsigned_from_json(document: bytes) -> MembershipList:
    """Return the list in a file that is still to be signed; a person has to read it.

    Raises:
        MembershipError: If the file is malformed.
    """
    try:
        return _membership(strict_json.read_object(document, MAX_FILE_BYTES))
    except (ValueError, EncodingError) as error:
        raise MembershipError(f"the membership list is malformed: {error}") from None


def _document(membership: MembershipList) -> dict[str, Any]:
    return {
        "consortium": membership.consortium,
        "version": membership.version,
        "issued_at": strict_json.written(membership.issued_at),
        "minimum_cohort": membership.minimum_cohort,
        "members": [
            {
                "site": member.site,
                "identity_key": member.identity_key.hex(),
                "modalities": list(member.modalities),
                "valid_from": strict_json.written(member.valid_from),
                "valid_until": strict_json.written(member.valid_until),
            }
            for member in membership.members
        ],
    }


def _membership(found: dict[str, Any]) -> MembershipList:
    if "issued_at" in found and "minimum_cohort" not in found:
        raise MembershipError(
            "the membership list says no minimum cohort: it was made by a version before there was one",
            remedy="sign a new one: fedmepd-admin membership sign",
        )
    strict_json.fields(found, consortium=str, version=int, issued_at=str, minimum_cohort=int, members=list)
    return MembershipList(
        consortium=found["consortium"],
        version=found["version"],
        issued_at=strict_json.instant(found["issued_at"]),
        minimum_cohort=found["minimum_cohort"],
        members=tuple(_member(entry) for entry in found["members"]),
    )


def _member(entry: Any) -> Member:
    found = strict_json.fields(entry, site=str, identity_key=str, modalities=list, valid_from=str, valid_until=str)
    return Member(
        site=found["site"],
        identity_key=bytes.fromhex(found["identity_key"]),
        modalities=strict_json.strings(found["modalities"]),
        valid_from=strict_json.instant(found["valid_from"]),
        valid_until=strict_json.instant(found["valid_until"]),
    )
