"""Layout: how a member's federated parameters become one vector per segment. Torch-free.

A round's vector is cut into segments whose members differ: `modality/<m>` holds the encoder of modality m and the
blocks of the decoder's modality-stacked weights that belong to m (members: the sites that own m); `common` holds the
rest of the decoder (members: all sites). Inside a segment come first the *plain* values (encoders), then the *filter*
values, filter by filter, so that a (filter, block) slot is one contiguous run.

Blocks: a weight over stacked modality features splits into one block per modality; a row of the modality-weight
layers belongs to its modality; a bias follows its filter (into the common block, where the filter has several).

Source: method section 3 "Blocks"; secure-aggregation segments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Arrays = Mapping[str, FloatArray]

COMMON = "common"
_HIDDEN = ".modality_weights.hidden."
_STACKED_INPUTS = (".embed1.conv.weight", ".short1.conv.weight", _HIDDEN)
_STACKED_ROWS = (".modality_weights.score.",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A rectangular part of a parameter: some filters (rows) and some of their input channels (columns).

    Attributes:
        tensor: Name of the weight.
        bias: Name of the bias that goes with these rows, if any.
        rows: Filters [start, stop).
        columns: Input channels [start, stop); ignored for a plain piece, which is the whole parameter.
        size: Values of one filter in this piece, bias included (of the whole parameter for a plain piece).
    """

    tensor: str
    bias: str | None
    rows: tuple[int, int]
    columns: tuple[int, int]
    size: int

    @property
    def filters(self) -> int:
        """Number of filters."""
        return self.rows[1] - self.rows[0]

    @property
    def layer(self) -> str:
        """Name of the layer, for people: level and part of the decoder."""
        return ".".join(part for part in self.tensor.split(".")[1:3] if part != "weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A part of the vector that is summed over one group of sites.

    Attributes:
        name: `modality/<m>` or `common`.
        modality: The modality that members own; None for all sites.
        plain: Parameters averaged as they are.
        filters: Pieces averaged filter by filter, each with its own weight.
        regions: Regions whose validation Dice is summed beside the parameters; of `common` only.
    """

    name: str
    modality: str | None
    plain: tuple[Piece, ...]
    filters: tuple[Piece, ...]
    regions: tuple[str, ...] = ()
    slot_starts: npt.NDArray[np.int64] = field(init=False, repr=False, compare=False)
    slot_sizes: npt.NDArray[np.int64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        sizes = np.concatenate([np.full(p.filters, p.size, np.int64) for p in self.filters] or [np.zeros(0, np.int64)])
        object.__setattr__(self, "slot_sizes", sizes)
        object.__setattr__(self, "slot_starts", np.cumsum(sizes) - sizes)

    @property
    def plain_values(self) -> int:
        """Values averaged as they are."""
        return sum(piece.size for piece in self.plain)

    @property
    def filter_values(self) -> int:
        """Values averaged filter by filter."""
        return int(self.slot_sizes.sum())

    @property
    def slots(self) -> int:
        """Number of (filter, block) slots."""
        return len(self.slot_sizes)

    def per_value(self, per_slot: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Spread one number per slot over the slot's values."""
        return np.repeat(per_slot, self.slot_sizes)

    def per_slot(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Sum the values of each slot, in double precision."""
        if not self.slots:
            return np.zeros(0, np.float64)
        return np.add.reduceat(values.astype(np.float64), self.slot_starts)

    def gather_plain(self, arrays: Arrays) -> FloatArray:
        """Read the plain values out of parameters."""
        return _join(arrays[piece.tensor].reshape(-1) for piece in self.plain)

    def scatter_plain(self, vector: FloatArray, arrays: Arrays) -> None:
        """Write plain values into parameters, in place."""
        start = 0
        for piece in self.plain:
            target = arrays[piece.tensor]
            target[...] = vector[start : start + piece.size].reshape(target.shape)
            start += piece.size

    def gather_filters(self, arrays: Arrays) -> FloatArray:
        """Read the filter values out of parameters, filter by filter."""
        return _join(_read(piece, arrays) for piece in self.filters)

    def scatter_filters(self, vector: FloatArray, arrays: Arrays) -> None:
        """Write filter values into parameters, in place."""
        start = 0
        for piece in self.filters:
            stop = start + piece.filters * piece.size
            _write(piece, vector[start:stop].reshape(piece.filters, piece.size), arrays)
            start = stop


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """All segments of a federation's vector.

    Attributes:
        modalities: Modalities of the federation, in canonical order.
        segments: One per modality that has values, then `common` (always there: it carries the scalars).
        shapes: The federated parameters, in the order that the segments were cut in.
        encoders: Whether encoders are federated.
        decoder: Whether the decoder is federated.
    """

    modalities: tuple[str, ...]
    segments: tuple[Segment, ...]
    shapes: Mapping[str, tuple[int, ...]]
    encoders: bool
    decoder: bool

    def for_member(self, own: Sequence[str]) -> tuple[Segment, ...]:
        """Return the segments that a member of these modalities contributes to."""
        return tuple(segment for segment in self.segments if segment.modality is None or segment.modality in own)

    @property
    def values(self) -> int:
        """Parameters in the whole vector."""
        return sum(segment.plain_values + segment.filter_values for segment in self.segments)

    @property
    def regions(self) -> tuple[str, ...]:
        """Regions whose validation Dice is summed beside the parameters."""
        return self.segments[-1].regions


def build_layout(
    shapes: Mapping[str, tuple[int, ...]],
    modalities: tuple[str, ...],
    *,
    encoders: bool,
    decoder: bool,
    regions: tuple[str, ...] = (),
) -> Layout:
    """Cut parameters into segments.

    Args:
        shapes: Shape of every trainable parameter of a member that owns all modalities.
        modalities: Modalities of the federation, in canonical order.
        encoders: Whether modality encoders (or the shared network) are federated.
        decoder: Whether the fusion decoder is federated.
        regions: Regions whose validation Dice sites bring.
    """
    plain: dict[str | None, list[Piece]] = {name: [] for name in (*modalities, None)}
    filters: dict[str | None, list[Piece]] = {name: [] for name in (*modalities, None)}
    for name, shape in shapes.items():
        if name.startswith("encoders.") and encoders:
            plain[name.split(".")[1]].append(_whole(name, shape))
        elif name.startswith("shared.") and encoders:
            plain[None].append(_whole(name, shape))
        elif name.startswith("decoder.") and decoder and name.endswith(".weight"):
            bias = name.removesuffix("weight") + "bias"
            for modality, piece in _blocks(name, shape, modalities, bias if bias in shapes else None):
                filters[modality].append(piece)
    segments = [
        Segment(name=f"modality/{m}", modality=m, plain=tuple(plain[m]), filters=tuple(filters[m]))
        for m in modalities
        if plain[m] or filters[m]
    ]
    segments.append(
        Segment(name=COMMON, modality=None, plain=tuple(plain[None]), filters=tuple(filters[None]), regions=regions)
    )
    kept = {p.tensor for s in segments for p in (*s.plain, *s.filters)} | {p.bias for s in segments for p in s.filters}
    return Layout(
        modalities=modalities,
        segments=tuple(segments),
        shapes={name: shape for name, shape in shapes.items() if name in kept},
        encoders=encoders,
        decoder=decoder,
    )


def roster_of(layout: Layout, owned: Sequence[Sequence[str]]) -> dict[str, int]:
    """Count the sites of each segment, given what each site owns."""
    return {s.name: sum(s.modality is None or s.modality in own for own in owned) for s in layout.segments}


def _whole(name: str, shape: tuple[int, ...]) -> Piece:
    return Piece(tensor=name, bias=None, rows=(0, shape[0]), columns=(0, 0), size=prod(shape))


def _blocks(
    name: str, shape: tuple[int, ...], modalities: tuple[str, ...], bias: str | None
) -> Iterable[tuple[str | None, Piece]]:
    """Yield the (modality, piece) blocks of one decoder weight."""
    rows, inputs, kernel = shape[0], shape[1], prod(shape[2:])
    with_bias = 0 if bias is None else 1
    if any(part in name for part in _STACKED_ROWS):
        for row, modality in enumerate(modalities):
            size = inputs * kernel + with_bias
            yield modality, Piece(tensor=name, bias=bias, rows=(row, row + 1), columns=(0, inputs), size=size)
        return
    if not any(part in name for part in _STACKED_INPUTS):
        size = inputs * kernel + with_bias
        yield None, Piece(tensor=name, bias=bias, rows=(0, rows), columns=(0, inputs), size=size)
        return
    rest = 1 if _HIDDEN in name else 0  # the occupancy belongs to no modality
    channels = (inputs - rest) // len(modalities)
    for index, modality in enumerate(modalities):
        columns = (index * channels, (index + 1) * channels)
        yield modality, Piece(tensor=name, bias=None, rows=(0, rows), columns=columns, size=channels * kernel)
    if rest or with_bias:
        columns = (inputs - rest, inputs)
        yield None, Piece(tensor=name, bias=bias, rows=(0, rows), columns=columns, size=rest * kernel + with_bias)


def _read(piece: Piece, arrays: Arrays) -> FloatArray:
    rows, columns = slice(*piece.rows), slice(*piece.columns)
    block = arrays[piece.tensor][rows, columns].reshape(piece.filters, -1)
    if piece.bias is not None:
        block = np.concatenate([block, arrays[piece.bias][rows, np.newaxis]], axis=1)
    return block.reshape(-1)


def _write(piece: Piece, block: FloatArray, arrays: Arrays) -> None:
    rows, columns = slice(*piece.rows), slice(*piece.columns)
    if piece.bias is not None:
        arrays[piece.bias][rows] = block[:, -1]
        block = block[:, :-1]
    target = arrays[piece.tensor][rows, columns]
    arrays[piece.tensor][rows, columns] = block.reshape(target.shape)


def _join(parts: Iterable[FloatArray]) -> FloatArray:
    collected = list(parts)
    return np.concatenate(collected).astype(np.float32, copy=False) if collected else np.zeros(0, np.float32)
