"""The commands about the status page: links for browsers, and certificates for them."""

from __future__ import annotations

import stat
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.serialization import pkcs12

from coordinator.cli.admin import main as admin_main
from coordinator.cli.admin.status_page import place_of
from security.pki.certificates import facts_of, join_bundle
from tests.coordinator.served import Served, command, served
from tests.coordinator.status_visits import link_of, loaded


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("status")) as made:
        yield made


def test_a_link_says_where_the_page_is_found(fed: Served) -> None:
    assert link_of(fed).startswith(f"https://{fed.page.address}/enter?ticket=")
    assert link_of(fed, "--at", "status.example").startswith(
        f"https://status.example:{fed.page.address.rpartition(':')[2]}/enter?ticket="
    )
    assert '"expires"' in link_of(fed, "--json")


@pytest.mark.parametrize(
    ("listens", "members", "at", "place", "hint"),
    [
        ("0.0.0.0:8445", "fed.example:8443", "", "fed.example:8445", ""),
        ("[::]:8445", "[fd00::1]:8443", "", "[fd00::1]:8445", ""),
        ("127.0.0.1:8445", "localhost:8443", "", "127.0.0.1:8445", ""),
        ("127.0.0.1:8445", "fed.example:8443", "", "127.0.0.1:8445", "ssh -L 8445:127.0.0.1:8445 fed.example"),
        ("10.1.2.3:8445", "fed.example:8443", "", "10.1.2.3:8445", ""),
        ("10.1.2.3:8445", "fed.example:8443", "status.example:443", "status.example:443", ""),
    ],
)
def test_a_browser_is_sent_where_it_can_reach_the_page(
    listens: str, members: str, at: str, place: str, hint: str
) -> None:
    found, told = place_of(listens, members, at)
    assert found == place
    assert hint in told if hint else not told


def test_a_certificate_for_browsers_is_private_and_whole(fed: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    out = fed.folder / "me.p12"
    words = ("status-page", "certificate", "--out", out, "--identity", fed.folder / "alice")
    assert "FEDMEPD_P12_PASSWORD" in command(admin_main, *words).err
    monkeypatch.setenv("FEDMEPD_P12_PASSWORD", "short")
    assert command(admin_main, *words).code == 2
    assert not out.exists()
    monkeypatch.setenv("FEDMEPD_P12_PASSWORD", "correct horse")
    said = command(admin_main, *words)
    assert said.code == 0, said.err
    assert "Import it into your browser" in said.err
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    key, leaf, above = pkcs12.load_key_and_certificates(out.read_bytes(), b"correct horse")
    alice = loaded(fed)
    assert key is not None
    assert leaf is not None
    assert key.private_numbers() == alice.tls_key.private_numbers()  # type: ignore[union-attr]  # P-256
    assert facts_of(leaf).identity == alice.identity
    assert join_bundle([leaf, *above]) == alice.chain_pem + alice.trust.root_pem
    assert command(admin_main, *words).code == 2
