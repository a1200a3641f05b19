"""Where keys and certificates lie on a disk (SPEC 8): one class per kind of folder, each safe against crashes."""

from security.folders.consortium import Consortium, ConsortiumFolder
from security.folders.identity import IdentityFolder, LoadedIdentity
from security.folders.issuer import IssuerFolder

__all__ = ["Consortium", "ConsortiumFolder", "IdentityFolder", "IssuerFolder", "LoadedIdentity"]
