"""Known answers for SPEC 9 to 12, made by `slow_secagg` from fixed inputs, byte for byte the same each time.

`python -m tests.security.make_secagg_vectors` writes `vectors/{shamir,prg,secagg_*}.json`. Nothing is drawn at random:
`secagg_scenes` says where the inputs come from.

A `secagg_*.json` has `inputs`, from which an implementation with injected randomness can play the round, and
`expected`, all that it must then have said. Byte strings are hexadecimal. Values of vectors are unsigned 32-bit
integers; in `masked` they stand as little-endian words.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tests.security.secagg_play import Json, Play, expected_of, words_hex
from tests.security.secagg_scenes import DROPOUTS, POLICIES, ROUND, Scene, draw, draw_below_p, inputs_of, number_hex
from tests.security.slow_terms import P, prg, shamir_recover, shamir_share

FOLDER = Path(__file__).parent / "vectors"


def shamir_case(name: str, secret: bytes, coefficients: list[int], n: int) -> Json:
    """Shares of a secret, and what the first and the last t of them recover."""
    t = len(coefficients) + 1
    shares = {x: shamir_share(secret, coefficients, x) for x in range(1, n + 1)}
    chosen = [list(range(1, t + 1)), list(range(n - t + 1, n + 1))]
    recovered = [shamir_recover({x: shares[x] for x in xs}) for xs in chosen]
    return {
        "name": name,
        "secret": secret.hex(),
        "coefficients": [number_hex(c) for c in coefficients],
        "t": t,
        "n": n,
        "shares": {str(x): share.hex() for x, share in shares.items()},
        "recovery": [{"from": xs, "secret": secret.hex()} for xs, secret in zip(chosen, recovered, strict=True)],
    }


def shamir() -> Json:
    """SPEC 12: cases, and shares that recovery must refuse."""
    drawn = [draw_below_p(f"shamir|c{i}") for i in range(1, 15)]
    largest = b"\xff" * 32
    refused = {
        "the result is 2^256": {1: 2**256, 2: 2**256},
        "the result is p - 1": {1: P - 1, 2: P - 1},
        "a share is p": {1: P, 2: 5},
        "a share is the largest 33 bytes": {1: 2**264 - 1, 2: 5},
    }
    return {
        "p": number_hex(P),
        "cases": [
            shamir_case("t = n = 3", draw("shamir|s1"), drawn[:2], 3),
            shamir_case("t = 4, n = 5", draw("shamir|s2"), drawn[:3], 5),
            shamir_case("t = 15, n = 21", draw("shamir|s3"), drawn, 21),
            shamir_case("smallest secret, coefficients 0", bytes(32), [0, 0], 3),
            shamir_case("largest secret, largest coefficients", largest, [P - 1, P - 1], 4),
            shamir_case("shares of 2^256 and more, the last p - 1", largest, [99], 3),
            shamir_case("share 2 is 0", largest, [149], 3),
            shamir_case("zeros in front are part of the secret", bytes(31) + b"\x01", [P - 1], 3),
        ],
        "refused": [
            {"name": name, "t": 2, "shares": {str(x): number_hex(y) for x, y in shares.items()}}
            for name, shares in refused.items()
        ],
    }


def prg_cases() -> Json:
    """SPEC 10.7: windows of one long stream whose counter carries into its second and third byte."""
    key, values = draw("prg"), 4 * (2**16 + 2)
    stream = prg(key, values)
    places = (0, 1, 5, 4 * 255 + 2, 4 * 256 - 1, 4 * 65535 + 3, values - 4)
    return {
        "key": key.hex(),
        "values": values,
        "sha256_of_little_endian_words": hashlib.sha256(bytes.fromhex(words_hex(stream))).hexdigest(),
        "windows": [{"from": at, "words": stream[at : at + 4]} for at in places],
    }


def played(scene: Scene) -> Json:
    """A scene's known answers."""
    inputs = inputs_of(scene)
    return {"about": scene["about"], "inputs": inputs, "expected": expected_of(Play(inputs).run())}


def texts() -> dict[str, str]:
    """All files by name."""
    contents = {"shamir": shamir(), "prg": prg_cases()}
    contents |= {f"secagg_{scene['name']}": played(scene) for scene in (ROUND, DROPOUTS, POLICIES)}
    return {
        f"{name}.json": json.dumps(content, indent=1, ensure_ascii=True) + "\n" for name, content in contents.items()
    }


if __name__ == "__main__":
    for file, text in texts().items():
        (FOLDER / file).write_text(text)
