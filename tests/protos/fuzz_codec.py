"""Coverage-guided fuzzing of the codec by hand; no part of the test suite.

    pip install atheris
    python -P -m tests.protos.fuzz_codec -max_total_time=600 -rss_limit_mb=2048 [corpus folder]

from the root of the repository. The first byte chooses the decoder, the rest is the message. A corpus folder that is
empty is first filled with sound messages, which random bytes would hardly ever become. A crash is any exception
but a refusal, or an object that does not decode to itself; libFuzzer then leaves the input in a file, which the same
command takes as an argument. Without atheris it says so and exits with 0.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

_SOUND = 30


def target() -> Callable[[bytes], None]:
    """Return what tries one input; what is imported here is what coverage is measured of."""
    from tests.protos.strategies import DECODERS, PAIRS
    from tests.protos.test_fuzz import try_bytes

    names = sorted(DECODERS)

    def one_input(data: bytes) -> None:
        if not data:
            return
        what = names[data[0] % len(names)]
        found = try_bytes(what, data[1:])
        if found is not None and what in PAIRS:
            again = try_bytes(what, PAIRS[what][1](found).SerializeToString())
            if again != found:
                raise RuntimeError(f"{what}: {found} became {again}")

    return one_input


def sow(folder: Path) -> None:
    """Write sound messages of every decoder that has an encoder."""
    from tests.protos.strategies import DECODERS, PAIRS

    for index, what in enumerate(sorted(DECODERS)):
        for number, message in enumerate(_sound(what) if what in PAIRS else ()):
            (folder / f"sound-{index:02d}-{number:02d}").write_bytes(bytes([index]) + message)


def _sound(what: str) -> list[bytes]:
    """Return sound messages, the same each time."""
    from hypothesis import HealthCheck, Phase, given, settings

    from tests.protos.strategies import PAIRS

    terms, encode, _, _ = PAIRS[what]
    found: list[bytes] = []

    @settings(
        max_examples=_SOUND,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(terms)
    def gather(term: object) -> None:
        found.append(encode(term).SerializeToString())

    gather()
    return found


def main() -> int:
    """Fuzz until told to stop."""
    try:
        import atheris  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        print("atheris is not installed: pip install atheris")
        return 0
    with atheris.instrument_imports(include=["protos", "tests.protos"]):
        one_input = target()
        for folder in (Path(word) for word in sys.argv[1:] if not word.startswith("-")):
            if folder.is_dir() and not any(folder.iterdir()):
                sow(folder)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
