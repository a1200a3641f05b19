"""Whole rounds, byte by byte as a second implementation makes them that was written from SPEC.md alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from security import secagg
from security.encoding import frame
from security.masking import Masker
from security.membership_file import from_json
from security.secagg import Demands, Party, Randomness, Segment, Setting, Transcript
from security.secagg.confirm import survivors_bytes

VECTORS = Path(__file__).parents[1] / "vectors"
SCENES = ("secagg_round", "secagg_dropouts", "secagg_policies")


class Scene:
    """One file: its inputs put through the implementation."""

    def __init__(self, name):
        found = json.loads((VECTORS / f"{name}.json").read_text())
        self.inputs, self.expected = found["inputs"], found["expected"]
        self.setting = self._setting()
        self.given = {site["site"]: site for site in self.inputs["sites"]}
        self.u1, self.u2, self.u3 = (tuple(self.inputs[key]) for key in ("advertised", "shared", "masked"))

    def _setting(self):
        inputs = self.inputs
        listed = from_json(json.dumps(inputs["membership"]).encode()).unverified
        members = {member.site: member for member in listed.members}
        return Setting(
            consortium=listed.consortium,
            run=inputs["run"],
            round_number=inputs["round"],
            attempt=inputs["attempt"],
            membership_version=listed.version,
            membership_digest=bytes.fromhex(listed.digest),
            spec_hash=bytes.fromhex(inputs["run_spec_sha256"]),
            layout_digest=bytes.fromhex(inputs["layout_digest"]),
            formats=tuple((form["clip"], form["scale"]) for form in inputs["quantisation"]),
            parties=tuple(
                Party(site=site, modalities=members[site].modalities, identity_key=members[site].identity_key)
                for site in inputs["roster"]
            ),
            segments=tuple(Segment(**segment) for segment in inputs["segments"]),
            broadcast=tuple((one["name"], bytes.fromhex(one["sha256"])) for one in inputs["broadcast"]),
            previous=tuple(inputs["previous"]),
            run_sites={site: member.modalities for site, member in members.items()},
        )

    def identity(self, site):
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(self.given[site]["identity_private_key"]))

    def demands(self, site):
        return Demands(**self.given[site]["demands"])

    def random(self, site):
        given = self.given[site]
        keys = iter([given["channel_private_key"], given["mask_private_key"], *given["seeds"].values()])
        coefficients = iter(number for row in given["coefficients"] for number in row)
        return Randomness(key=lambda: bytes.fromhex(next(keys)), coefficient=lambda: int(next(coefficients), 16))

    def play(self):
        draws = {site: self.random(site) for site in self.u1}
        states = {s: secagg.advertise(self.setting, s, self.identity(s), self.demands(s), draws[s]) for s in self.u1}
        said = [states[site].advertisement for site in self.u1]
        for site in self.u2:
            states[site] = secagg.share(states[site], said, draws[site])
        self.bundles = {site: states[site].bundle for site in self.u2}
        self.masked = {}
        for site in self.u3:
            states[site] = secagg.receive(states[site], self.u2, self._sealed(site))
            for name, pads in secagg.pads(states[site]).items():
                words = np.array(self.given[site]["vector"][name], np.uint32)
                Masker(pads).apply(words)
                self.masked[site, name] = words
        for site in self.u3:
            states[site] = secagg.confirm(states[site], self.u3, self.identity(site))
        signatures = {site: states[site].confirmation for site in self.u3}
        for site in self.u3:
            states[site] = secagg.unmask(states[site], signatures)
        self.states = states
        return self

    def _sealed(self, receiver):
        sealed = {site: self.bundles[site].sealed[receiver] for site in self.u2 if site != receiver}
        for sender, to in self.inputs["damaged_bundles"]:
            if to == receiver:
                sealed[sender] = _turned(sealed[sender])
        return sealed

    def answers(self):
        """The answers, false ones in the place of true ones."""
        found = {site: self.states[site].answer for site in self.u3}
        for liar, about, segment in self.inputs["false_shares"]:
            seeds = {site: dict(shares) for site, shares in found[liar].seeds.items()}
            seeds[about][segment] = _turned(seeds[about][segment])
            found[liar] = secagg.Answer(site=liar, seeds=seeds, keys=found[liar].keys)
        return tuple(found.values())


def _turned(message):
    return message[:-1] + bytes([message[-1] ^ 1])


@pytest.fixture(scope="module", params=SCENES)
def scene(request):
    return Scene(request.param).play()


def test_the_setting_and_its_context(scene):
    assert scene.setting.encoded.hex() == scene.expected["setting"]
    assert scene.setting.context.hex() == scene.expected["ctx0"]


def test_the_advertisements(scene):
    for wanted, site in zip(scene.expected["advertisements"], scene.u1, strict=True):
        said = scene.states[site].advertisement
        signed = said.signed(scene.setting.context)
        assert (site, said.channel_key.hex(), said.mask_key.hex(), signed.hex(), said.signature.hex()) == (
            wanted["site"],
            wanted["channel_public_key"],
            wanted["mask_public_key"],
            wanted["message"],
            wanted["signature"],
        )


def test_the_threshold_and_the_second_context(scene):
    keys = scene.states[scene.u3[0]].keys
    assert keys.threshold == scene.expected["threshold"]
    assert keys.context.hex() == scene.expected["ctx1"]


def test_the_bundles(scene):
    for wanted, site in zip(scene.expected["bundles"], scene.u2, strict=True):
        bundle = scene.bundles[site]
        assert site == wanted["from"]
        assert [found.hex() for found in bundle.commitments] == list(wanted["commitments"].values())
        assert {to: sealed.hex() for to, sealed in bundle.sealed.items()} == {
            to: one["sealed"] for to, one in wanted["to"].items()
        }
        assert b"".join(scene.states[site].shares[site]).hex() == wanted["own_shares"]


def test_the_masked_inputs(scene):
    for site, segments in scene.expected["masked"].items():
        for name, words in segments.items():
            assert scene.masked[site, name].astype("<u4").tobytes().hex() == words


def test_the_survivors_and_who_signed_them(scene):
    keys = scene.states[scene.u3[0]].keys
    assert survivors_bytes(keys, scene.u2, scene.u3).hex() == scene.expected["survivors_message"]
    signatures = {site: scene.states[site].confirmation.hex() for site in scene.u3}
    assert signatures == scene.expected["survivor_signatures"]


def test_what_is_opened_and_what_each_site_answers(scene):
    opened = secagg.open_segments(scene.states[scene.u3[0]].keys, scene.u3)
    assert [s.name for s in scene.setting.segments if s.name in opened] == scene.expected["open_segments"]
    for site in scene.u3:
        answer, wanted = scene.states[site].answer, scene.expected["answers"][site]
        seeds = {about: {name: share.hex() for name, share in found.items()} for about, found in answer.seeds.items()}
        assert {about: found for about, found in seeds.items() if found} == wanted["seeds"]
        assert {about: share.hex() for about, share in answer.keys.items()} == wanted["mask_private_keys"]


def test_the_sums(scene):
    keys = scene.states[scene.u3[0]].keys
    transcript = Transcript(
        keys=keys,
        sharers=scene.u2,
        survivors=scene.u3,
        commitments={site: scene.bundles[site].commitments for site in scene.u2},
        answers=scene.answers(),
    )
    opening = secagg.recover(transcript)
    assert set(opening.contributors) == set(scene.expected["sums"])
    for name, wanted in scene.expected["sums"].items():
        total = np.sum([scene.masked[site, name] for site in opening.contributors[name]], axis=0, dtype=np.uint32)
        Masker(opening.pads[name]).apply(total)
        assert total.tolist() == wanted


def test_labels_tell_frames_apart():
    assert frame("fedmepd/secagg-sharers", 1, b"a") != frame("fedmepd/secagg-inputs", 1, b"a")
