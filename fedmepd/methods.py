"""The methods that can be compared, as switches over the same rounds, data and budget.

Names of the paper's tables; the `ablation-*` entries are the rows of its ablation (four encoders; + federated decoder
is `fedavg-encoders`; + partially personal decoder; + single anchor; `fedmepd` itself has K anchors).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedmepd.errors import ConfigError

DecoderSharing = Literal["local", "federated", "partial"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """What a method shares.

    Attributes:
        name: Name in configurations and tables.
        title: One line for people.
        shared: One multi-channel network, absent modalities zero, instead of modality encoders and fusion.
        encoders: Whether encoders (or the shared network) are averaged.
        decoder: Whether the fusion decoder stays local, is averaged whole, or partly (personal filters).
        clusters: Anchors per class: None for the configured K, 0 for no anchors and no LACCA.
        pooled: All patients in one place, one model: no federation.
    """

    name: str
    title: str
    shared: bool = False
    encoders: bool = True
    decoder: DecoderSharing = "local"
    clusters: int | None = 0
    pooled: bool = False

    @property
    def federated(self) -> bool:
        """Whether rounds exchange anything."""
        return self.encoders or self.decoder != "local"


_METHODS = (
    Method(name="local", title="each member trains alone", encoders=False),
    Method(name="centralised", title="all patients in one place", encoders=False, pooled=True),
    Method(name="fedavg", title="one shared multi-channel network, averaged", shared=True),
    Method(name="fedavg-encoders", title="modality encoders and the whole decoder averaged", decoder="federated"),
    Method(name="fedmema", title="modality encoders averaged, local decoders, anchors", clusters=None),
    Method(name="fedmepd", title="partly personal decoder and anchors", decoder="partial", clusters=None),
    Method(name="ablation-encoders", title="modality encoders averaged, local decoders, no anchors"),
    Method(name="ablation-partial", title="partly personal decoder, no anchors", decoder="partial"),
    Method(
        name="ablation-single-anchor",
        title="partly personal decoder, one anchor per class",
        decoder="partial",
        clusters=1,
    ),
)
METHODS = {method.name: method for method in _METHODS}


def get_method(name: str) -> Method:
    """Return a method by name.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name not in METHODS:
        raise ConfigError(f"run.methods: unknown method {name!r}", remedy=f"use some of: {', '.join(METHODS)}")
    return METHODS[name]
