"""What secure aggregation computes, on one core: masks against OpenSSL and Flower's SecAgg+, secret sharing.

    python -m benchmarks.secagg [--parameters 10000000] [--repeats 3] [--without-flower] [--json FILE]

Everything runs on one core, one thing at a time, and what is compared takes turns. Time is the processor's (`openssl
speed` counts the same), so that other work on the machine disturbs little; wall time stands beside it. Flower has an
environment of its own (`flower.py`). Its masks are numbers of a Mersenne Twister with a seed of 32 bits, ours are key
streams of AES-256: the work compared is that of the same step, not of the same strength.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.backends.openssl.backend import backend

from benchmarks.flower import flower_side
from benchmarks.processes import Process, median, note
from benchmarks.secagg_round import Secrets, all_segments, made_up, one_segment
from security import secagg
from security.masking import Masker, Pad, Words
from security.secagg.keys import KEY_BYTES, agree, pair_pad, public_of
from security.shamir import Recovery, split
from tests.security.secagg.cohort import Cohort, setting_of

RESULTS = Path(__file__).parent / "results" / "secagg.json"
PEERS = 8
SERVED = 32
SHARED, DROPPED = 100, 30
_PADS = 8
_GOALS = {
    "expansion_gb_per_s": 3.0,
    "expansion_share_of_openssl": 0.5,
    "client_times_flower": 8.0,
    "server_times_flower": 14.0,
    "split_s": 0.010,
    "recovery_of_keys_s": 1.0,
    "recovery_of_a_round_s": 1.0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds of one piece of work.

    Attributes:
        wall: By the clock.
        cpu: Of the processor, in this process.
    """

    wall: float
    cpu: float


def timed(work: Callable[[], object]) -> Timing:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Timing(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)


def middle(timings: Sequence[Timing]) -> dict[str, float]:
    return {"cpu_s": median([one.cpu for one in timings]), "wall_s": median([one.wall for one in timings])}


def openssl_gb_per_s() -> float:
    """Return what OpenSSL's own measurement says of AES-256 in counter mode."""
    program = shutil.which("openssl")
    if program is None:
        raise SystemExit("the share of OpenSSL needs the program `openssl`: install it")
    command = [program, "speed", "-mr", "-seconds", "1", "-bytes", "16384", "-evp", "aes-256-ctr"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603  fixed arguments
    return float(next(line for line in said.splitlines() if line.startswith("+F:")).split(":")[3]) / 1e9


def expansion(words: Words, repeats: int) -> dict[str, Any]:
    """Measure masks over a vector against bare key streams."""
    pads = [Pad(key=secrets.token_bytes(KEY_BYTES), added=n % 2 == 0) for n in range(_PADS)]
    Masker(pads).apply(words)
    pairs = [(timed(lambda: Masker(pads).apply(words)), openssl_gb_per_s()) for _ in range(repeats)]
    size = words.nbytes * _PADS / 1e9
    return {
        "expansion": middle([ours for ours, _ in pairs]),
        "expansion_gb_per_s": median([size / ours.cpu for ours, _ in pairs]),
        "openssl_gb_per_s": median([theirs for _, theirs in pairs]),
        "expansion_share_of_openssl": median([size / ours.cpu / theirs for ours, theirs in pairs]),
    }


def client(words: Words) -> Callable[[], None]:
    """Return the work of a site with `PEERS` peers: keys, then all masks."""
    own = {f"s{n}": ("flair",) for n in range(PEERS + 1)}
    cohort = Cohort(setting=setting_of(own, segments=one_segment(len(words)))).advertise().share()
    state = secagg.receive(cohort.states["s4"], cohort.sharers, cohort.sealed_for("s4"))
    return lambda: Masker(secagg.pads(state)["common"]).apply(words)


def server(words: Words, found: Secrets) -> Callable[[], None]:
    """Return the work for one site of `SERVED` that dropped out: its key from the shares, a mask per survivor."""
    transcript = found.transcript
    keys, gone = transcript.keys, transcript.sharers[-1]
    answers = transcript.answers[: keys.threshold]

    def work() -> None:
        secret = Recovery([keys.index(one.site) for one in answers]).secret([one.keys[gone] for one in answers])
        if public_of(secret) != keys.of(gone).mask_key:
            raise SystemExit("the recovered key is not the one that was shared")
        common = {site: agree(secret, keys.of(site).mask_key) for site in transcript.survivors}
        pads = [pair_pad(shared, keys.context, site, gone, "common").removed for site, shared in common.items()]
        Masker(pads).apply(words)

    return work


def against_flower(
    name: str, work: Callable[[], None], flower: Process | None, order: str, repeats: int
) -> dict[str, Any]:
    """Measure a step of ours in turns with Flower's."""
    work()
    if flower is None:
        return {name: middle([timed(work) for _ in range(repeats)])}
    flower.ask(order)
    pairs = [(timed(work), Timing(**flower.ask(order))) for _ in range(repeats)]
    return {
        name: middle([ours for ours, _ in pairs]),
        f"{name}_flower": middle([theirs for _, theirs in pairs]),
        f"{name}_times_flower": median([theirs.cpu / ours.cpu for ours, theirs in pairs]),
        f"{name}_times_flower_wall": median([theirs.wall / ours.wall for ours, theirs in pairs]),
    }


def sharing(repeats: int) -> dict[str, Any]:
    """Measure Shamir's sharing alone, and the recovery of a whole round with a third of it gone."""
    found = made_up(SHARED, DROPPED, all_segments(1))
    transcript = found.transcript
    keys = transcript.keys
    secret = secrets.token_bytes(KEY_BYTES)
    gone = [site for site in transcript.sharers if site not in transcript.survivors]
    answers = transcript.answers[: keys.threshold]

    def bare() -> list[bytes]:
        recovery = Recovery([keys.index(one.site) for one in answers])
        return [recovery.secret([one.keys[site] for one in answers]) for site in gone]

    if bare() != [found.mask_keys[site] for site in gone]:
        raise SystemExit("the recovered keys are not those that were shared")
    many = range(repeats)
    splits = [timed(lambda: split(secret, threshold=keys.threshold, count=SHARED)) for _ in many]
    keys_back = [timed(bare) for _ in many]
    rounds = [timed(lambda: secagg.recover(transcript)) for _ in many]
    return {
        "threshold": keys.threshold,
        "split": middle(splits),
        "split_s": middle(splits)["cpu_s"],
        "recovery_of_keys": middle(keys_back),
        "recovery_of_keys_s": middle(keys_back)["cpu_s"],
        "recovery_of_a_round": middle(rounds),
        "recovery_of_a_round_s": middle(rounds)["cpu_s"],
    }


def measure(parameters: int, repeats: int, flower: Process | None) -> dict[str, Any]:
    words = np.random.default_rng(0).integers(0, 1 << 32, parameters, dtype=np.uint32)
    found = made_up(SERVED, 1, one_segment(parameters))
    orders = (f"client {PEERS}", f"server {SERVED} {found.transcript.keys.threshold}")
    return {
        **expansion(words, repeats),
        **against_flower("client", client(words), flower, orders[0], repeats),
        **against_flower("server", server(words, found), flower, orders[1], repeats),
        **sharing(repeats),
    }


def settle() -> dict[str, Any]:
    """Keep to one core, with all that is started from here; say what the machine was doing."""
    busy, cores = os.getloadavg()[0], sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    return {"core": cores[-1], "load": busy, "openssl": backend.openssl_version_text()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--without-flower", action="store_true")
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        shared, machine = note(), settle()
        flower = None if arguments.without_flower else stack.enter_context(flower_side(arguments.parameters))
        versions = flower.ask("versions") if flower is not None else {}
        row = {
            "parameters": arguments.parameters,
            "peers": PEERS,
            **shared,
            "machine": {**machine, **versions},
            **measure(arguments.parameters, arguments.repeats, flower),
            "goals": _GOALS,
        }
    print(json.dumps(row, indent=1))
    arguments.json.write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
