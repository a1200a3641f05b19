"""Rounds of secure aggregation from fixed inputs: who takes part, what all demand and draw, who drops out when.

A scene gives demands as minimum and colluders: `demands` for all sites, `own_demands` for some; `approved` says whom a
site's persons approve, and raises its minimum (SPEC 10.1). `segments` have their values and `least open`.

Everything that a party would draw at random comes from one stream, `draw(what)`: SHA-256 of the UTF-8 text
`fedmepd known answers|` and `what`, which names the scene, the site and the use. A number below p is
`draw(what|1)` and `draw(what|2)`, joined, as a big-endian integer modulo p.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import asdict
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.security.secagg_play import membership_of
from tests.security.slow_demands import Demands, raised
from tests.security.slow_terms import P, threshold

Json = dict[str, Any]


def draw(what: str) -> bytes:
    """32 bytes of the stream."""
    return hashlib.sha256(f"fedmepd known answers|{what}".encode()).digest()


def draw_below_p(what: str) -> int:
    """A coefficient of the stream."""
    return int.from_bytes(draw(f"{what}|1") + draw(f"{what}|2"), "big") % P


def number_hex(number: int) -> str:
    """33 bytes, as shares are written."""
    return number.to_bytes(33, "big").hex()


Scene = dict[str, Any]

ROUND: Scene = {
    "name": "round",
    "about": "Five sites, nobody drops out. The ids are sorted by code point, not as people sort.",
    "members": {
        "A-hospital": ["flair"],
        "b1": ["flair"],
        "b10": ["flair", "t1"],
        "b2": ["t1"],
        "c_x": ["flair", "t1"],
        "d.away": ["t1"],
    },
    "roster": ["A-hospital", "b1", "b10", "b2", "c_x"],
    "previous": ["A-hospital", "b1", "b10", "b2", "c_x"],
    "round": [3, 1],
    "segments": {"modality/flair": [7, 4], "modality/t1": [5, 3], "common": [11, 5]},
    "demands": [3, 1],
    "never_advertised": [],
    "never_shared": [],
    "never_masked": [],
}

DROPOUTS: Scene = {
    "name": "dropouts",
    "about": "Seven sites; b2 drops out after R0, delta after R1. modality/t1 keeps two survivors and stays closed.",
    "members": {
        "Alpha": ["flair"],
        "b1": ["flair"],
        "b10": ["flair"],
        "b2": ["flair", "t1"],
        "c_x": ["flair", "t1"],
        "delta": ["flair", "t1"],
        "eps": ["t1"],
    },
    "roster": ["Alpha", "b1", "b10", "b2", "c_x", "delta", "eps"],
    "previous": ["Alpha", "b1", "b10", "b2", "c_x", "delta", "eps"],
    "round": [1, 1],
    "segments": {"modality/flair": [7, 5], "modality/t1": [5, 4], "common": [11, 5]},
    "demands": [3, 0],
    "never_advertised": [],
    "never_shared": ["b2"],
    "never_masked": ["delta"],
}

POLICIES: Scene = {
    "name": "policies",
    "about": "Six sites were asked, zeta never advertises; d.away announced last time and is not asked. modality/t1 has"
    " three survivors, but a slot too thin by who is gone, d.away among them: closed. At b2 two sites of the roster are"
    " not approved, c_x and zeta, so that it demands five: modality/t2, which it is in, is closed to all, while"
    " modality/flair, which it is not in, is open with four. A-hospital assumes two colluders: modality/pet with three"
    " sites is closed to all. c_x's bundle for A-hospital is damaged. b1 answers with a false share of b10's seed for"
    " modality/flair.",
    "members": {
        "A-hospital": ["flair", "pet", "t2"],
        "b1": ["flair", "pet", "t1", "t2"],
        "b10": ["flair", "t1"],
        "b2": ["t2"],
        "c_x": ["flair", "pet", "t1", "t2"],
        "d.away": ["flair", "t1"],
        "zeta": ["flair", "t1"],
    },
    "roster": ["A-hospital", "b1", "b10", "b2", "c_x", "zeta"],
    "previous": ["A-hospital", "b1", "b10", "b2", "c_x", "d.away", "zeta"],
    "round": [9, 2],
    "segments": {
        "modality/flair": [7, 5],
        "modality/pet": [4, 3],
        "modality/t1": [5, 4],
        "modality/t2": [3, 0],
        "common": [11, 7],
    },
    "demands": [3, 1],
    "own_demands": {"A-hospital": [3, 2], "b2": [3, 0]},
    "approved": {"b2": ["A-hospital", "b1", "b10"]},
    "never_advertised": ["zeta"],
    "never_shared": [],
    "never_masked": [],
    "damaged_bundles": [["c_x", "A-hospital"]],
    "false_shares": [["b1", "b10", "modality/flair"]],
}

QUANTISATION = (
    ("delta", 0.0625, 8192.0),
    ("weighted", 4.0, 1024.0),
    ("weight", 1e6, 0.1),
    ("count", 1.0, 1.0),
    ("scalar", 1e6, 1.0),
)


def inputs_of(scene: Scene) -> Json:
    """All that is given in a scene, the randomness of every party included."""
    name, owners = scene["name"], scene["members"]
    layout = scene["segments"]
    artefacts = [*layout, "anchors", *([] if scene["round"][0] > 1 else ["start"])]
    unsigned = membership_file(name, owners)
    key = draw(f"{name}|membership")
    signature = Ed25519PrivateKey.from_private_bytes(key).sign(membership_of(unsigned).encode())
    u1 = [site for site in scene["roster"] if site not in scene["never_advertised"]]
    return {
        "membership_private_key": key.hex(),
        "membership": unsigned | {"signature": signature.hex()},
        "run": f"run-{name}",
        "round": scene["round"][0],
        "attempt": scene["round"][1],
        "run_spec_sha256": draw(f"{name}|run specification").hex(),
        "layout_digest": draw(f"{name}|layout").hex(),
        "quantisation": [{"name": n, "clip": clip, "scale": scale} for n, clip, scale in QUANTISATION],
        "roster": scene["roster"],
        "segments": [{"name": n, "values": v, "least_open": least} for n, (v, least) in layout.items()],
        "contributors_at": {n: values - 1 for n, (values, _) in layout.items()},
        "broadcast": [{"name": n, "sha256": draw(f"{name}|artefact|{n}").hex()} for n in artefacts],
        "previous": scene["previous"],
        "advertised": u1,
        "shared": [site for site in u1 if site not in scene["never_shared"]],
        "masked": [site for site in u1 if site not in (*scene["never_shared"], *scene["never_masked"])],
        "damaged_bundles": scene.get("damaged_bundles", []),
        "false_shares": scene.get("false_shares", []),
        "sites": [site_inputs(scene, site, threshold(len(u1))) for site in u1],
    }


def membership_file(scene: str, owners: dict[str, list[str]]) -> Json:
    """The list as SPEC 5.6 has it, without its signature."""
    return {
        "consortium": "brain.example",
        "version": 12,
        "issued_at": "2030-01-15T12:00:00+00:00",
        "minimum_cohort": 3,
        "members": [
            {
                "site": site,
                "identity_key": Ed25519PrivateKey.from_private_bytes(draw(f"{scene}|{site}|identity"))
                .public_key()
                .public_bytes_raw()
                .hex(),
                "modalities": modalities,
                "valid_from": "2030-01-01T00:00:00+00:00",
                "valid_until": "2031-01-01T00:00:00+00:00",
            }
            for site, modalities in owners.items()
        ],
    }


def site_inputs(scene: Scene, site: str, t: int) -> Json:
    """A site's keys, draws, demands and vector; a vector's last value says 1, its first scalar (SPEC 11.3)."""
    about = f"{scene['name']}|{site}"
    own = [g for g in scene["segments"] if g == "common" or g.removeprefix("modality/") in scene["members"][site]]
    values = {g: scene["segments"][g][0] for g in own}
    minimum, colluders = scene.get("own_demands", {}).get(site, scene["demands"])
    roster, approved = scene["roster"], scene.get("approved", {}).get(site, scene["roster"])
    return {
        "site": site,
        "identity_private_key": draw(f"{about}|identity").hex(),
        "channel_private_key": draw(f"{about}|channel").hex(),
        "mask_private_key": draw(f"{about}|mask").hex(),
        "seeds": {g: draw(f"{about}|seed|{g}").hex() for g in own},
        "coefficients": [
            [number_hex(draw_below_p(f"{about}|secret {k}|c{i}")) for i in range(1, t)] for k in range(1 + len(own))
        ],
        "demands": asdict(raised(Demands(minimum=minimum, colluders=colluders), roster, approved, site)),
        "vector": {g: [*struct.unpack(f">{n - 1}I", drawn_bytes(f"{about}|{g}", n - 1)), 1] for g, n in values.items()},
    }


def drawn_bytes(what: str, words: int) -> bytes:
    """As many words of the stream as wanted, 8 per draw."""
    return b"".join(draw(f"{what}|{block}") for block in range(-(-words // 8)))[: 4 * words]
