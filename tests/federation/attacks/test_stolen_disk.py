"""An agent's disk, stolen when a round is over, opens nothing of it: not with all that the coordinator has beside it.

The thief is given the whole folder of site a, an older copy of its sealed state, every message of the round and the
masked inputs of all sites. What it would need is known here: private keys, seeds, state keys and masks of everybody.
"""

from __future__ import annotations

import base64
import shutil

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from protos.terms import RoundId
from security.secagg import dump_state, pads
from security.secagg.keys import agree, channel_key
from security.secagg.share import NONCE, associated
from site_agent.secagg.keeper import Keeper, _associated
from tests.federation.attacks.victim import Victim
from tests.site_agent.secure_cohort import ROUND

KEY_BYTES = 32


def files(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def windows(content):
    """Yield everything in a file that could be a key: raw at any offset, and what hexadecimal digits spell."""
    yield from (content[at : at + KEY_BYTES] for at in range(len(content) - KEY_BYTES + 1))
    for at in range(len(content) - 2 * KEY_BYTES + 1):
        digits = content[at : at + 2 * KEY_BYTES]
        if digits.isalnum() and not digits.strip(b"0123456789abcdef"):
            yield bytes.fromhex(digits.decode())


def opens(key, sealed, data):
    try:
        return bool(ChaCha20Poly1305(key).decrypt(sealed[:12], sealed[12:], data))
    except InvalidTag:
        return False


def keys_of_state(stolen, sealed):
    """Try everything in stolen files as the key of a sealed state."""
    return [key for content in stolen.values() for key in windows(content) if opens(key, sealed, _associated(ROUND))]


def secrets_of_all(victim):
    """Return what opens inputs: of the victim, and of every other site, with the masks that follow from them."""
    states = {"a": victim.state, **{site: victim.cohort.sites[site].steps.keeper.read(ROUND) for site in victim.others}}
    found = {}
    for site, state in states.items():
        found |= {f"{site} channel": state.channel_private, f"{site} mask": state.mask_private}
        found |= {f"{site} seed {index}": seed for index, seed in enumerate(state.seeds)}
        for segment, made in pads(state).items():
            found |= {f"{site} {segment} pad {index}": pad.key for index, pad in enumerate(made)}
    own = victim.state
    for site, shares in own.shares.items():
        found |= {f"share {index} of {site}": share for index, share in enumerate(shares)}
    return found | {"state key": victim.states[-1][1]}


def named(secrets, stolen):
    """Return which secrets are in which files, in any usual spelling."""
    return [
        (name, path.name)
        for name, secret in secrets.items()
        for path, content in stolen.items()
        if any(form in content for form in (secret, secret.hex().encode(), base64.b64encode(secret)))
    ]


@pytest.fixture
def victim(tmp_path):
    return Victim(tmp_path)


def test_a_disk_that_is_stolen_after_a_round_holds_nothing_that_opens_it(victim, tmp_path):
    played = victim.up_to("unmask")
    old = Keeper(victim.data).masked(ROUND).with_name("state").read_bytes()
    victim.whole_from(played)
    thief = tmp_path / "thief"
    shutil.copytree(victim.data, thief)
    stolen = files(thief)
    assert len(stolen) > 8, "it is the whole folder"
    assert not [path for path in stolen if "secagg" in path.parts], "nothing of the attempt is there"
    assert named(secrets_of_all(victim), stolen) == []
    assert keys_of_state(stolen, old) == [], "a copy of the sealed state stays sealed"
    restored = thief / "secagg" / "r" / "000001-0001"
    restored.mkdir(parents=True)
    (restored / "state").write_bytes(old)
    assert Keeper(thief).read(ROUND) is None


def test_what_was_recorded_for_a_site_stays_sealed_to_who_steals_its_disk(victim, tmp_path):
    """Each bundle for a, and each of a's to others, is tried with every possible key on the disk."""
    played = victim.whole_from(victim.up_to("unmask"))
    thief = tmp_path / "thief"
    shutil.copytree(victim.data, thief)
    keys = victim.state.keys
    bundle = next(one for one in played.mask_task("a").shares if one.site == "b")
    public = keys.of("b").channel_key

    def opened(private):
        key = channel_key(agree(private, public), keys.context, "b", "a")
        try:
            return ChaCha20Poly1305(key).decrypt(NONCE, bundle.sealed, associated(keys, "b", "a"))
        except InvalidTag:
            return None

    assert opened(victim.state.channel_private) is not None, "this is what the thief would need"
    likely = {key for content in files(thief).values() for key in likely_keys(content)}
    assert len(likely) > 5
    assert [key for key in likely if opened(key) is not None] == []


def likely_keys(content):
    """Yield aligned pieces and all hexadecimal hashes of a file; X25519 is too slow for every offset."""
    yield from (content[at : at + KEY_BYTES] for at in range(0, len(content) - KEY_BYTES + 1, KEY_BYTES))
    for word in content.replace(b'"', b" ").split():
        if len(word) == 2 * KEY_BYTES and not word.strip(b"0123456789abcdef"):
            yield bytes.fromhex(word.decode())


def test_in_the_middle_of_a_round_the_key_is_there_and_opens_the_state(victim):
    """What the search above would find: it is no search that finds nothing because it cannot."""
    victim.up_to("confirm")
    folder = Keeper(victim.data).masked(ROUND).parent
    assert (folder / "key").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    stolen = files(victim.data)
    sealed = (folder / "state").read_bytes()
    (key,) = keys_of_state(stolen, sealed)
    assert opens(key, sealed, _associated(ROUND))
    found = named(secrets_of_all(victim), stolen)
    assert found == [("state key", "key")], "everything else is sealed under it"
    assert dump_state(victim.state) not in sealed


def test_the_state_of_one_round_does_not_open_as_that_of_another(victim):
    victim.up_to("share")
    folder = Keeper(victim.data).masked(ROUND).parent
    sealed, key = (folder / "state").read_bytes(), (folder / "key").read_bytes()
    assert not opens(key, sealed, _associated(RoundId(run="r", round_number=1, attempt=2)))


def test_after_several_rounds_none_of_them_is_left(victim):
    victim.whole()
    first = secrets_of_all(victim)
    victim.next_round()
    victim.whole()
    assert named(first | secrets_of_all_now(victim), files(victim.data)) == []


def secrets_of_all_now(victim):
    state = victim.state
    return {"channel": state.channel_private, "mask": state.mask_private, "seed": state.seeds[0]}
