"""Ledgers to tamper with: an owner, its key, a clock that is set by hand, and claims."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from security.identity import Identity, Role
from security.keys import public_bytes
from security.privacy.entries import seal, to_line
from security.privacy.exports import read
from security.privacy.heads import Head, head_message
from security.privacy.ledger import Ledger
from security.privacy.terms import Budget, Claim, claim_key

CONSORTIUM = "brain.example"
BUDGET = Budget(epsilon=8.0, delta=1e-5)
NOW = datetime(2030, 1, 15, 12, 0, tzinfo=UTC)
SHA = "ab" * 32


def identity(name="a", role=Role.SITE, consortium=CONSORTIUM):
    return Identity(consortium=consortium, role=role, id=name)


def claim(number=1, **changes):
    key = claim_key(run="run", round_number=number, mechanism="training", inputs="weights")
    said = {
        "key": key,
        "mechanism": "training",
        "run": "run",
        "round_number": number,
        "noise": 4.0,
        "clip": 1.0,
        "rate": 0.04,
        "steps": 25,
        "patients": 100,
        "conditional": False,
        "recipients": "the coordinator",
    }
    return Claim(**(said | changes))


@dataclass
class Owner:
    """One who keeps a ledger.

    Attributes:
        folder: Where.
        name: The site.
        at: What its clock says.
    """

    folder: Path
    name: str = "a"
    at: datetime = NOW
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def identity(self):
        return identity(self.name)

    @property
    def path(self):
        return self.folder / self.name / "privacy" / "ledger.jsonl"

    @property
    def marker(self):
        return self.path.with_suffix(".begun")

    def open(self, **changes):
        given = {"path": self.path, "identity": self.identity, "key": self.key, "clock": lambda: self.at} | changes
        path, who, key = (given.pop(name) for name in ("path", "identity", "key"))
        return Ledger.open(path, who, key, **given)

    def lines(self):
        return self.path.read_bytes().splitlines(keepends=True)

    def entries(self):
        return list(read(self.path))

    def head(self, sequence=0, digest="00" * 32, key=None):
        """Sign a head, whatever the ledger says."""
        key = key or self.key
        signature = key.sign(head_message(CONSORTIUM, self.identity.uri, sequence, digest))
        return Head(owner=self.identity.uri, key=public_bytes(key), sequence=sequence, hash=digest, signature=signature)

    def rewrite(self, keep, *said, key=None):
        """Keep so many entries and go on with others, as whoever has that key can: all hashes fit.

        Args:
            keep: How many.
            said: Kind and body of the others, and the time if it is another one.
            key: The owner's, if none is given.
        """
        made = self.entries()[:keep]
        for kind, body, *at in said:
            made.append(
                seal(
                    made[-1] if made else None,
                    owner=self.identity,
                    key=key or self.key,
                    at=at[0] if at else self.at,
                    kind=kind,
                    body=body,
                )
            )
        self.path.write_bytes(b"".join(to_line(entry).encode() + b"\n" for entry in made))


def spend(ledger, number, spent, **changes):
    """Debit and release."""
    charged = claim(number, **changes)
    ledger.debit(charged, spent=spent, after=ledger.head().hash)
    ledger.release(charged.key, f"{number:064x}")
    return charged


def altered(line, **changes):
    """Change fields of a line without making it fit again."""
    return json.dumps(json.loads(line) | changes).encode() + b"\n"
