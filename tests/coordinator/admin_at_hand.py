"""What tests of `fedmepd-admin` do first: a site enrols, a run starts, a list is read."""

from __future__ import annotations

import json

from coordinator.registry import Attempt
from security import keys, tokens
from security.identity import Identity, Role
from security.pki.requests import make_request, prove_identity
from tests.coordinator.served import CONSORTIUM, Served


def site(fed: Served, name: str, *modalities: str, **options: object) -> None:
    """Enrol a site past the wire: agents have their own command."""
    text, _ = fed.registry.create_token(Role.SITE, name, actor="test", **options)
    parsed, own, tls = tokens.parse(text), keys.make_signing_key(), keys.make_tls_key()
    request = make_request(Identity(consortium=CONSORTIUM, role=Role.SITE, id=name), tls)
    fed.registry.enrol(
        Attempt(
            token_id=parsed.id,
            token_secret=parsed.secret,
            certificate_request_pem=request,
            identity_public_key=keys.public_bytes(own),
            identity_proof=prove_identity(own, request, parsed.id),
            modalities=modalities,
            software="test 1",
        )
    )


def listed(fed: Served, *words: str) -> list[dict]:
    said = fed.admin(*words, "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert isinstance(found, list)
    return found


def start(fed: Served) -> None:
    configuration = fed.folder / "run.toml"
    configuration.write_text("run\n")
    said = fed.admin("runs", "start", configuration)
    assert (said.code, said.out) == (0, "run\n"), said.err
    assert "WARNING: it is plain." in said.err
    assert [line.split() for line in said.err.splitlines() if line.strip().startswith(("common", "modality"))] == [
        ["common", "3", "3", "3", "none"],
        ["modality/t2", "1", "3", "3", "never", "opened"],
        ["modality/t1", "5", "3", "3", "2"],
    ]
