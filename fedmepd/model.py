"""The whole network of a member: its own encoders, the fusion decoder, auxiliary decoder and, at sites, LACCA.

A member builds and runs encoders of its own modalities only. Weights are drawn per parameter from a generator seeded
by (seed, parameter name), so members that own different modalities start from the same values without talking.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedmepd.anchors import Anchors
from fedmepd.auxiliary import AuxiliaryDecoder, SharedNetwork
from fedmepd.blocks import upsample
from fedmepd.calibration import Calibration, CalibrationStyle
from fedmepd.encoders import Encoder
from fedmepd.errors import ConfigError
from fedmepd.fusion import Decoded, FusionDecoder
from fedmepd.seeds import seed_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Everything that decides the shapes of a member's weights.

    Attributes:
        modalities: Modalities of the federation in canonical order.
        own: Modalities of this member, in canonical order.
        classes: Number of classes, background included.
        width: Base width C, divisible by 4.
        calibration: LACCA style, or None for a member without LACCA.
        shared: True for the one multi-channel network of FedAvg instead of modality encoders and fusion.
    """

    modalities: tuple[str, ...]
    own: tuple[str, ...]
    classes: int
    width: int
    calibration: CalibrationStyle | None = None
    shared: bool = False

    def __post_init__(self) -> None:
        if self.width < 4 or self.width % 4:  # noqa: PLR2004  C/4 channels in the PRM
            raise ConfigError(f"network.width = {self.width}", remedy="use a multiple of 4")

    def positions(self, names: tuple[str, ...]) -> tuple[int, ...]:
        """Return the positions of modalities among the federation's."""
        return tuple(self.modalities.index(name) for name in names)


@dataclass(slots=True)
class Output:
    """What a forward pass gives.

    Attributes:
        probabilities: Class probabilities [batch, class, d, h, w].
        prm: Probability maps, upsampled to full resolution, for deep supervision.
        auxiliary: Auxiliary predictions, one per present modality.
        fused: Fused features of levels 1 to 4 before calibration.
    """

    probabilities: Tensor
    prm: list[Tensor] = field(default_factory=list)
    auxiliary: list[Tensor] = field(default_factory=list)
    fused: list[Tensor] = field(default_factory=list)


class Network(nn.Module):
    """A member's network.

    Args:
        architecture: Shapes.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = a = architecture
        self.encoders = nn.ModuleDict()
        self.decoder: FusionDecoder | None = None
        self.auxiliary: AuxiliaryDecoder | None = None
        self.calibration: Calibration | None = None
        self.shared: SharedNetwork | None = None
        if a.shared:
            self.shared = SharedNetwork(a.width, len(a.modalities), a.classes)
            return
        self.encoders.update({name: Encoder(a.width) for name in a.own})
        self.decoder = FusionDecoder(len(a.modalities), a.width, a.classes)
        self.auxiliary = AuxiliaryDecoder(a.width, a.classes)
        if a.calibration is not None:
            self.calibration = Calibration(a.width, a.calibration)

    def initialise(self, seed: int) -> None:
        """Draw all weights afresh (Kaiming for convolutions), each from its own generator."""
        for name, parameter in self.named_parameters():
            if name.startswith("calibration."):
                continue
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.kaiming_normal_(parameter, generator=_generator(seed, name))
        if self.calibration is not None:
            self.calibration.initialise(_generator(seed, "calibration"))

    def features(self, images: Float[Tensor, "batch given d h w"], given: tuple[str, ...]) -> list[list[Tensor]]:
        """Run the encoders: four feature maps per given modality, in canonical order."""
        images = images.contiguous(memory_format=torch.channels_last_3d)
        return [self.encoders[name](images[:, i : i + 1]) for i, name in enumerate(given)]

    def decode(self, maps: list[list[Tensor]], given: tuple[str, ...], anchors: Anchors | None = None) -> Decoded:
        """Fuse feature maps into predictions, calibrated where there is LACCA and an anchor stands for something."""
        if self.decoder is None:
            raise TypeError("a shared network has no fusion decoder")
        calibrate = None
        if self.calibration is not None and anchors is not None and bool(anchors.attendable.any()):
            calibration, table = self.calibration, anchors

            def calibrate(level: int, feature: Tensor) -> Tensor:
                out: Tensor = calibration(level, feature, table.level(level), table.attendable)
                return out

        return self.decoder(maps, self.architecture.positions(given), calibrate)  # type: ignore[no-any-return]

    def forward(
        self,
        images: Float[Tensor, "batch given d h w"],
        anchors: Anchors | None = None,
        given: tuple[str, ...] | None = None,
    ) -> Output:
        """Predict; in training mode with the deep and auxiliary predictions beside.

        Args:
            images: Images of the given modalities in canonical order, every edge divisible by 8 and at least 16.
            anchors: Anchors of the round, used where the member has LACCA.
            given: Which of the member's modalities are given; all of them by default.
        """
        given = given or self.architecture.own
        if self.shared is not None:
            return Output(self.shared(self._scatter(images, given)))
        maps = self.features(images, given)
        decoded = self.decode(maps, given, anchors)
        if not self.training or self.auxiliary is None:
            return Output(decoded.probabilities, fused=decoded.fused)
        return Output(decoded.probabilities, upsampled(decoded.prm), [self.auxiliary(m) for m in maps], decoded.fused)

    def compile_parts(self) -> None:
        """Compile the encoders and decoders, each on its own: training runs them one after the other."""
        for part in (*self.encoders.values(), self.decoder, self.auxiliary, self.shared):
            if part is not None:
                part.compile()

    def _scatter(self, images: Tensor, given: tuple[str, ...]) -> Tensor:
        """Place the given modalities among zeros, as the shared network expects them."""
        a = self.architecture
        full = images.new_zeros(images.shape[0], len(a.modalities), *images.shape[2:])
        full[:, list(a.positions(given))] = images
        return full.contiguous(memory_format=torch.channels_last_3d)


def upsampled(prm: list[Tensor]) -> list[Tensor]:
    """Bring the probability maps of levels 1 to 4 to full resolution."""
    return [upsample(p, 1 << i) if i else p for i, p in enumerate(prm)]


def build(architecture: Architecture, seed: int) -> Network:
    """Build a network with fresh weights, in channels-last layout."""
    network = Network(architecture)
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # missing in torch's stubs
    network.initialise(seed)
    return network


def _generator(seed: int, name: str) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of("initialise", seed, name))
