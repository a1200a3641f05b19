"""The network as one would write it down first: every encoder, zero-filled modalities, the full product tensor.

It is the yardstick for correctness (tests) and speed (benchmarks). It shares the parameters' names with
`fedmepd.model.Network`, so that weights can be loaded, and nothing else: plain contiguous layout, biases, PyTorch's
own norm and activation, a [batch, modality, class, channel, d, h, w] tensor in every fusion, attention with wide
projections.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  the customary name
from torch import Tensor, nn

from fedmepd.auxiliary import AuxiliaryDecoder
from fedmepd.calibration import Calibration
from fedmepd.encoders import Encoder
from fedmepd.fusion import FusionDecoder


class Straightforward(nn.Module):
    def __init__(self, modalities: tuple[str, ...], classes: int, width: int, *, calibration: str | None) -> None:
        super().__init__()
        self.modalities, self.classes = modalities, classes
        self.encoders = nn.ModuleDict({name: Encoder(width) for name in modalities})
        self.decoder = FusionDecoder(len(modalities), width, classes)
        self.auxiliary = AuxiliaryDecoder(width, classes)
        self.calibration = Calibration(width, calibration) if calibration else None

    def forward(self, images: Tensor, mask: Tensor, anchors: list[Tensor] | None = None) -> dict[str, object]:
        """images [batch, modality, d, h, w], mask [modality] bool, anchors per level [anchor, channel]."""
        maps = [self._encode(f"encoders.{name}", images[:, i : i + 1]) for i, name in enumerate(self.modalities)]
        prm, fused = [], []
        below = None
        for level in (4, 3, 2, 1):
            features = torch.stack([m[level - 1] for m in maps], dim=1)
            features = torch.where(mask.view(1, -1, 1, 1, 1, 1), features, torch.zeros_like(features))
            name = f"decoder.level{level}"
            probabilities = self._prm(name + ".prm", features.flatten(1, 2), below)
            feature = self._fuse(name + ".fusion", features, probabilities.detach())
            if below is not None:
                feature = torch.cat([feature, below], dim=1)
                feature = self._block(name + ".mix", self._block(name + ".join", feature))
            prm.insert(
                0, F.interpolate(probabilities, scale_factor=2 ** (level - 1), mode="trilinear", align_corners=True)
            )
            fused.insert(0, feature)
            if self.calibration is not None and anchors is not None:
                feature = self._attend(f"calibration.level{level}", feature, anchors[level - 1])
            below = self._block(name + ".rise", _up(feature)) if level > 1 else feature
        final = F.softmax(self._conv("decoder.classify", below), dim=1)
        auxiliary = [self._auxiliary(m) for m in maps] if self.training else []
        return {"probabilities": final, "prm": prm, "fused": fused, "auxiliary": auxiliary}

    def _conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight, bias = self.get_parameter(name + ".weight"), self.get_parameter(name + ".bias")
        return F.conv3d(x, weight, bias, stride, weight.shape[-1] // 2)

    def _block(self, name: str, x: Tensor, stride: int = 1, *, conv: str = ".conv") -> Tensor:
        return F.leaky_relu(F.instance_norm(self._conv(name + conv, x, stride)), 0.2)

    def _encode(self, name: str, x: Tensor) -> list[Tensor]:
        maps = []
        for level in (1, 2, 3, 4):
            stage = f"{name}.level{level}"
            x = self._block(stage + ".first", x, 1 if level == 1 else 2)
            x = x + self._block(stage + ".third", self._block(stage + ".second", x))
            maps.append(x)
        return maps

    def _prm(self, name: str, stacked: Tensor, below: Tensor | None) -> Tensor:
        x = self._block(name + ".embed3", self._block(name + ".embed2", self._block(name + ".embed1", stacked)))
        x = x if below is None else torch.cat([below, x], dim=1)
        return F.softmax(self._conv(name + ".classify", self._block(name + ".mix", x)), dim=1)

    def _fuse(self, name: str, features: Tensor, probabilities: Tensor) -> Tensor:
        product = features.unsqueeze(2) * probabilities.unsqueeze(1).unsqueeze(3)
        regions = []
        for r in range(self.classes):
            mean = probabilities[:, r : r + 1].mean(dim=(2, 3, 4), keepdim=True) + 1e-7
            pooled = product[:, :, r].mean(dim=(3, 4, 5)).flatten(1)[..., None, None, None] / mean
            hidden = F.leaky_relu(self._conv(f"{name}.modality_weights.hidden.{r}", torch.cat([pooled, mean], 1)), 0.2)
            weight = torch.sigmoid(self._conv(f"{name}.modality_weights.score.{r}", hidden))
            regions.append((product[:, :, r] * weight.unsqueeze(2)).sum(dim=1))
        x = self._block(name + ".region1", torch.cat(regions, dim=1), conv="")
        x = self._block(name + ".region3", self._block(name + ".region2", x))
        short = self._block(name + ".short1", features.flatten(1, 2))
        short = self._block(name + ".short3", self._block(name + ".short2", short))
        return torch.cat([x, short], dim=1)

    def _attend(self, name: str, feature: Tensor, anchors: Tensor) -> Tensor:
        layer = self.calibration.get_submodule(name.removeprefix("calibration."))
        channels, heads = layer.channels, layer.heads
        voxels = feature.permute(0, 2, 3, 4, 1).flatten(1, 3)
        inputs, keys = voxels, anchors
        if layer.style == "residual":
            inputs, keys = F.layer_norm(voxels, (channels,)), F.layer_norm(anchors, (channels,))
        q = layer.query(inputs).unflatten(-1, (heads, channels)).transpose(1, 2)
        k = layer.key(keys).unflatten(-1, (heads, channels)).permute(1, 2, 0)
        v = layer.value(keys).unflatten(-1, (heads, channels)).permute(1, 0, 2)
        attention = F.dropout(F.softmax(q @ k / channels**0.5, dim=-1), 0.1, self.training)
        out = layer.output((attention @ v).transpose(1, 2).flatten(2))
        out = voxels + out if layer.style == "residual" else out
        return out.transpose(1, 2).unflatten(2, feature.shape[2:])

    def _auxiliary(self, maps: list[Tensor]) -> Tensor:
        x = maps[3]
        for level in (4, 3, 2):
            name = f"auxiliary.level{level}"
            x = torch.cat([self._block(name + ".halve", _up(x)), maps[level - 2]], dim=1)
            x = self._block(name + ".mix", self._block(name + ".join", x))
        return F.softmax(self._conv("auxiliary.classify", x), dim=1)


def _up(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=True)
