"""Flower's SecAgg+ functions at work; needs Flower and nothing of this project (`flower.py` starts it).

    python flower_side.py PARAMETERS

Answers lines on its standard input with a line of JSON: `versions`; `client PEERS`, the masks of one client over its
quantised update as Flower's client modifier puts them on; `server SITES SHARES`, the masks that one client of so many
left behind when it dropped out, taken off as Flower's server does. What both do in the end, one reduction modulo 2^32,
is counted for the client. The update comes in layers of 250,000 values, which suit the caches.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import flwr
import numpy as np
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    get_parameters_shape,
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    private_key_to_bytes,
    public_key_to_bytes,
)

LAYER = 250_000
MODULUS = 1 << 32
TARGET = 1 << 22  # Flower's default range of quantised values
Vectors = list[np.ndarray[Any, Any]]


def pairs(count: int) -> list[tuple[bytes, bytes]]:
    """Return key pairs as they are kept and sent."""
    made = (generate_key_pairs() for _ in range(count))
    return [(private_key_to_bytes(private), public_key_to_bytes(public)) for private, public in made]


def update(parameters: int) -> Vectors:
    random = np.random.default_rng(0)
    sizes = [min(LAYER, parameters - start) for start in range(0, parameters, LAYER)]
    return [random.integers(0, TARGET, size, dtype=np.int32) for size in sizes]


def client(quantised: Vectors, peers: int) -> Callable[[], None]:
    """Return the client's work: its own mask, and one per peer."""
    (own, _), *others = pairs(peers + 1)
    seed = os.urandom(32)

    def work() -> None:
        shapes = get_parameters_shape(quantised)
        vector = parameters_addition(quantised, pseudo_rand_gen(seed, MODULUS, shapes))
        for index, (_, public) in enumerate(others):
            shared = generate_shared_key(bytes_to_private_key(own), bytes_to_public_key(public))
            mask = pseudo_rand_gen(shared, MODULUS, shapes)
            vector = (parameters_addition if index % 2 else parameters_subtraction)(vector, mask)
        parameters_mod(vector, MODULUS)

    return work


def server(quantised: Vectors, sites: int, needed: int) -> Callable[[], None]:
    """Return the server's work for one client that dropped out: its key from the shares, a mask per neighbour."""
    (gone, _), *others = pairs(sites)
    shares = create_shares(gone, needed, sites)[:needed]
    total = [layer.astype(np.int64) for layer in quantised]

    def work() -> None:
        vector, secret = total, combine_shares(shares)
        for index, (_, public) in enumerate(others):
            shared = generate_shared_key(bytes_to_private_key(secret), bytes_to_public_key(public))
            mask = pseudo_rand_gen(shared, MODULUS, get_parameters_shape(vector))
            vector = (parameters_addition if index % 2 else parameters_subtraction)(vector, mask)

    return work


def timed(work: Callable[[], None]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def main() -> None:
    quantised = update(int(sys.argv[1]))
    prepared: dict[str, Callable[[], None]] = {}
    for line in sys.stdin:
        what, *numbers = line.split()
        answer: dict[str, Any] = {"flwr": flwr.__version__, "numpy": np.__version__}
        if what != "versions":
            if line not in prepared:
                prepared[line] = (client if what == "client" else server)(quantised, *map(int, numbers))
            answer = timed(prepared[line])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
