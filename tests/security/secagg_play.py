"""A round of secure aggregation, played with `slow_secagg` from inputs as the vectors `secagg_*.json` have them.

What comes out is all that was said and derived, as JSON.
"""

from __future__ import annotations

import struct
from datetime import datetime
from typing import Any

from tests.security import slow_secagg as slow
from tests.security.slow_demands import Demands
from tests.security.slow_terms import Member, Membership, Segment, Setting, x25519

Json = dict[str, Any]


def words_hex(values: list[int]) -> str:
    """Little-endian 32-bit words."""
    return struct.pack(f"<{len(values)}I", *values).hex()


def membership_of(listed: Json) -> Membership:
    """The list that a file describes."""
    members = {
        m["site"]: Member(
            site=m["site"],
            identity_key=bytes.fromhex(m["identity_key"]),
            valid_from=datetime.fromisoformat(m["valid_from"]),
            valid_until=datetime.fromisoformat(m["valid_until"]),
            modalities=tuple(m["modalities"]),
        )
        for m in listed["members"]
    }
    return Membership(
        consortium=listed["consortium"],
        version=listed["version"],
        issued_at=datetime.fromisoformat(listed["issued_at"]),
        minimum_cohort=listed["minimum_cohort"],
        members=members,
    )


def setting_of(inputs: Json) -> Setting:
    """SPEC 9.2 of a scene's inputs."""
    return Setting(
        membership=membership_of(inputs["membership"]),
        run=inputs["run"],
        round=inputs["round"],
        attempt=inputs["attempt"],
        run_spec_sha256=bytes.fromhex(inputs["run_spec_sha256"]),
        layout_digest=bytes.fromhex(inputs["layout_digest"]),
        quantisation=tuple((f["clip"], f["scale"]) for f in inputs["quantisation"]),
        roster=tuple(inputs["roster"]),
        segments=tuple(Segment(**segment) for segment in inputs["segments"]),
        broadcast=tuple((artefact["name"], bytes.fromhex(artefact["sha256"])) for artefact in inputs["broadcast"]),
        previous=tuple(inputs["previous"]),
    )


def site_of(given: Json, setting: Setting) -> slow.Site:
    """A site with its draws."""
    draws = slow.Draws(
        channel=bytes.fromhex(given["channel_private_key"]),
        mask=bytes.fromhex(given["mask_private_key"]),
        seeds={name: bytes.fromhex(seed) for name, seed in given["seeds"].items()},
        coefficients=[[int(c, 16) for c in coefficients] for coefficients in given["coefficients"]],
    )
    identity = bytes.fromhex(given["identity_private_key"])
    return slow.Site(given["site"], identity, setting, Demands(**given["demands"]), draws)


def tampered(message: bytes) -> bytes:
    """The message with its last bit turned."""
    return message[:-1] + bytes([message[-1] ^ 1])


class Play:
    """A round played from a scene's inputs; attributes are what was said in each step."""

    def __init__(self, inputs: Json) -> None:
        self.inputs, self.setting = inputs, setting_of(inputs)
        self.sites = {given["site"]: site_of(given, self.setting) for given in inputs["sites"]}
        self.vectors = {given["site"]: given["vector"] for given in inputs["sites"]}
        self.u1, self.u2, self.u3 = inputs["advertised"], inputs["shared"], inputs["masked"]

    def run(self) -> Play:
        """All steps."""
        self.keys = [self.sites[i].advertise() for i in self.u1]
        self.bundles = {i: self.sites[i].share(self.keys) for i in self.u2}
        self.masked = {i: self.sites[i].mask(self.u2, self.received(i), self.vectors[i]) for i in self.u3}
        self.signatures = {i: self.sites[i].confirm(self.u3) for i in self.u3}
        self.answers = {i: self.sites[i].unmask(self.signatures) for i in self.u3}
        self.sums = self.opening(self.answers).sums(self.inputs["contributors_at"])
        return self

    def received(self, receiver: str) -> dict[str, bytes]:
        """The bundles that a site gets in R2, damaged ones among them."""
        sealed = {i: self.bundles[i].sealed[receiver] for i in self.u2 if i != receiver}
        damaged = [sender for sender, to in self.inputs["damaged_bundles"] if to == receiver]
        return sealed | {sender: tampered(sealed[sender]) for sender in damaged}

    def opening(self, answers: dict[str, slow.Answer]) -> slow.Opening:
        """The coordinator's part, with false shares in the place of true ones."""
        for liar, about, segment in self.inputs["false_shares"]:
            true = answers[liar]
            false = {(about, segment): tampered(true.seeds[about, segment])}
            answers = answers | {liar: slow.Answer(seeds=true.seeds | false, masks=true.masks)}
        return slow.Opening(
            slow.Collected(
                setting=self.setting, keys=self.keys, bundles=self.bundles, masked=self.masked, answers=answers
            )
        )


def expected_of(play: Play) -> Json:
    """All that was said and derived in a round."""
    listed, any_site = play.setting.membership, play.sites[play.u3[0]]
    ctx0, ctx1 = play.setting.ctx0(), any_site.ctx1
    return {
        "membership_list": listed.encode().hex(),
        "membership_digest": listed.digest().hex(),
        "setting": play.setting.encode().hex(),
        "ctx0": ctx0.hex(),
        "advertisements": [advertisement(ctx0, a) for a in play.keys],
        "threshold": any_site.t,
        "ctx1": ctx1.hex(),
        "bundles": [bundle(play, i) for i in play.u2],
        "self_keys": {
            i: {g: slow.self_key(ctx1, i, g, seed).hex() for g, seed in play.sites[i].draws.seeds.items()}
            for i in play.u2
        },
        "pair_keys": pair_keys(play, ctx1),
        "masked": {i: {g: words_hex(y) for g, y in vector.items()} for i, vector in play.masked.items()},
        "survivors_message": any_site.survivors.hex(),
        "survivor_signatures": {i: signature.hex() for i, signature in play.signatures.items()},
        "open_segments": [g.name for g in any_site.open_segments()],
        "answers": {i: answer(play, i) for i in play.u3},
        "sums": play.sums,
    }


def advertisement(ctx0: bytes, said: slow.Advertisement) -> Json:
    """SPEC 10.1."""
    return {
        "site": said.site,
        "channel_public_key": said.channel.hex(),
        "mask_public_key": said.mask.hex(),
        "message": slow.advertise_message(ctx0, said).hex(),
        "signature": said.signature.hex(),
    }


def bundle(play: Play, sender: str) -> Json:
    """SPEC 10.4, with what leads there."""
    site, said = play.sites[sender], play.bundles[sender]
    shares = {}
    for peer, sealed in said.sealed.items():
        shared = x25519(site.draws.channel, site.keys[peer].channel)
        shares[peer] = {
            "channel_key": slow.channel_key(site.ctx1, sender, peer, shared).hex(),
            "associated": slow.share_associated(site.ctx1, sender, peer).hex(),
            "plaintext": site.plaintext(peer).hex(),
            "sealed": sealed.hex(),
        }
    return {
        "from": sender,
        "commitments": {name: commitment.hex() for name, commitment in said.commitments.items()},
        "own_shares": site.plaintext(sender).hex(),
        "to": shares,
    }


def pair_keys(play: Play, ctx1: bytes) -> list[Json]:
    """SPEC 10.6, for all pairs of U2."""
    return [
        {
            "smaller": i,
            "larger": j,
            "keys": {
                g.name: slow.pair_key(
                    ctx1, i, j, g.name, x25519(play.sites[i].draws.mask, play.sites[j].own.mask)
                ).hex()
                for g in play.sites[i].segments
                if play.setting.membership.has(j, g.name)
            },
        }
        for at, i in enumerate(play.u2)
        for j in play.u2[at + 1 :]
    ]


def answer(play: Play, site: str) -> Json:
    """SPEC 10.9, by the site whose secret it is; what the site says, before anything is falsified."""
    said = play.answers[site]
    seeds: dict[str, dict[str, str]] = {}
    for (about, segment), share in said.seeds.items():
        seeds.setdefault(about, {})[segment] = share.hex()
    return {
        "seeds": {about: seeds[about] for about in sorted(seeds)},
        "mask_private_keys": {about: said.masks[about].hex() for about in sorted(said.masks)},
    }
