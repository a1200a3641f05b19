"""The exception tree of `security`: verification raises one of these, it never returns a truth value.

An error states the problem and, where there is one, the remedy, in words that a hospital's IT staff can act on. No
error holds a secret.
"""

from __future__ import annotations


class SecurityError(Exception):
    """Something that cannot be trusted, or that cannot be made as asked.

    Args:
        problem: What is wrong, naming the file, field or party; no full stop at the end.
        remedy: What to do about it; no full stop at the end.
    """

    def __init__(self, problem: str, *, remedy: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        """Return problem and remedy as one line."""
        return f"{self.problem}. {self.remedy}." if self.remedy else f"{self.problem}."


class EncodingError(SecurityError):
    """A value has no canonical encoding."""


class IdentityError(SecurityError):
    """A name or URI is not an identity of a consortium."""


class KeyFileError(SecurityError):
    """A key file or its folder cannot be written, read or trusted."""


class CertificateError(SecurityError):
    """A certificate or request cannot be made, read or trusted."""


class ExpiredError(CertificateError):
    """A certificate's validity has ended."""


class NotYetValidError(CertificateError):
    """A certificate's validity has not begun."""


class UnknownAuthorityError(CertificateError):
    """A certificate or trust bundle does not lead to the pinned root."""


class WrongRoleError(CertificateError):
    """A certificate is genuine but is for another role or use."""


class RevokedError(CertificateError):
    """A certificate was revoked."""


class TokenError(SecurityError):
    """An enrolment token cannot be used."""


class WrongTokenError(TokenError):
    """The token is malformed, unknown, or for another party."""


class UsedTokenError(TokenError):
    """The token has served its single use."""


class ExpiredTokenError(TokenError):
    """The token's time is over."""


class MembershipError(SecurityError):
    """A membership list is malformed, not signed by the membership key, or out of date."""


class AuditError(SecurityError):
    """An audit log was altered, shortened, reordered or forked."""


class PrivacyError(SecurityError):
    """Something about privacy budgets cannot be done or believed; nothing is released instead."""


class BudgetError(PrivacyError):
    """A budget, or what is to be spent of it, is out of range or does not fit."""


class LedgerError(PrivacyError):
    """A ledger is damaged, foreign, in use, or cannot be written."""


class RolledBackError(LedgerError):
    """Others have seen more of our own ledger than there is, or something else in its place."""


class OutdatedExportError(LedgerError):
    """An export lacks entries that others saw: it is older than theirs, or its owner cut the ledger off."""


class ForkError(LedgerError):
    """An owner has shown two ledgers that cannot both be its own.

    Args:
        problem: What is wrong.
        remedy: What to do about it.
        owner: Whose ledger, as an identity URI.
    """

    def __init__(self, problem: str, *, remedy: str | None = None, owner: str = "") -> None:
        super().__init__(problem, remedy=remedy)
        self.owner = owner


class SecureAggregationError(SecurityError):
    """A round of secure aggregation cannot go on as asked; nothing is sent instead."""


class ContextError(SecureAggregationError):
    """What the coordinator says of a round is not what the site knows, or not within what was agreed before."""


class RosterError(SecureAggregationError):
    """A set of sites is not what it must be: unsorted, strangers in it, too few, or without this site."""


class SignatureError(SecureAggregationError):
    """A signature is not its site's over what it should be."""


class SmallCohortError(SecureAggregationError):
    """Fewer sites than are demanded: what would be opened could be traced to one of them.

    Args:
        problem: What is wrong.
        remedy: What to do about it.
        sites: Whose demands are not met, the strictest first; empty if it is nobody's.
    """

    def __init__(self, problem: str, *, remedy: str | None = None, sites: tuple[str, ...] = ()) -> None:
        super().__init__(problem, remedy=remedy)
        self.sites = sites


class EquivocationError(SecureAggregationError):
    """Another answer was asked for than the one that was given."""


class SpentError(SecureAggregationError):
    """The update was sent before; sending it again would let two sums be compared."""


class ShareError(SecureAggregationError):
    """A share, or a bundle of shares, is malformed or does not open."""


class OpeningError(SecureAggregationError):
    """The coordinator cannot open the sum.

    Args:
        problem: What is wrong.
        sites: Whose secrets could not be recovered.
    """

    def __init__(self, problem: str, *, sites: tuple[str, ...] = ()) -> None:
        super().__init__(problem)
        self.sites = sites
