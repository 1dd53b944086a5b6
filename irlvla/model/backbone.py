"""Image backbones: own small ResNets, or any backbone of transformers by name, fused into one fine feature map."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from irlvla.errors import ConfigError
from irlvla.model.config import ModelConfig

FINE_STRIDE = 8
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)
"""ImageNet statistics, which pretrained backbones expect."""


@dataclass(frozen=True)
class ResNetSize:
    """Sizes of a ResNet's four stages."""

    channels: tuple[int, int, int, int]
    blocks: tuple[int, int, int, int]
    """Basic blocks of each stage."""
    pooled_stem: bool = True
    """Reach stride 4 by a convolution and a max-pool, as usual; else by one convolution, at half the cost of all."""


RESNETS = {
    "resnet10_narrow": ResNetSize((24, 48, 96, 192), (1, 1, 1, 1), pooled_stem=False),
    "resnet18": ResNetSize((64, 128, 256, 512), (2, 2, 2, 2)),
    "resnet34": ResNetSize((64, 128, 256, 512), (3, 4, 6, 3)),
}


@dataclass(frozen=True)
class ImageFeatures:
    """Features of all cameras of B scenes."""

    fine: Tensor
    """[B, V, image_channels, H/8, W/8] fused over strides 8, 16 and 32; for geometry."""
    coarse: Tensor
    """[B, V, C, H/32, W/32] last stage; for semantics."""


class VisionEncoder(nn.Module):
    """Backbone and feature pyramid; one image encoder serves semantic and 3D reasoning (our choice: the figure draws
    two, a laptop can afford one)."""

    def __init__(self, config: ModelConfig, stored: Mapping[str, Any] | None = None) -> None:
        """`stored` rebuilds a transformers backbone from its stored configuration instead of its pretrained weights."""
        super().__init__()
        self.backbone: nn.Module
        if config.backbone in RESNETS:
            size = RESNETS[config.backbone]
            self.backbone = ResNet(size)
            channels: tuple[int, ...] = size.channels[1:]
        else:
            self.backbone, channels = _transformers_backbone(config.backbone, stored)
        self.coarse_channels = channels[-1]
        self.laterals = nn.ModuleList(nn.Conv2d(c, config.image_channels, 1) for c in channels)
        self.smooth = nn.Conv2d(config.image_channels, config.image_channels, 1)
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN)[:, None, None] * 255, persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD)[:, None, None] * 255, persistent=False)

    @property
    def stored(self) -> dict[str, Any] | None:
        """Configuration of a transformers backbone; None for our own."""
        return None if isinstance(self.backbone, ResNet) else self.backbone.config.to_dict()  # type: ignore[union-attr, operator]

    def forward(self, images: Tensor) -> ImageFeatures:
        """Features of uint8 RGB images [B, V, 3, H, W]."""
        scenes = images.shape[0]
        pixels = (images.flatten(0, 1).to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std
        if isinstance(self.backbone, ResNet):
            stages = self.backbone(pixels.contiguous(memory_format=torch.channels_last))
        else:
            stages = list(self.backbone(pixels).feature_maps)
        fused = self.laterals[-1](stages[-1])
        for lateral, stage in zip(reversed(self.laterals[:-1]), reversed(stages[:-1]), strict=True):
            fused = lateral(stage) + functional.interpolate(fused, size=stage.shape[-2:], mode="nearest")
        fine = self.smooth(functional.relu(fused))
        return ImageFeatures(fine.unflatten(0, (scenes, -1)), stages[-1].unflatten(0, (scenes, -1)))


class ResNet(nn.Module):
    """Residual network of basic blocks; returns the stages of stride 8, 16 and 32.

    Source: He et al. 2016, "Deep Residual Learning for Image Recognition".
    """

    def __init__(self, size: ResNetSize) -> None:
        super().__init__()
        first = size.channels[0]
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, 7, stride=2 if size.pooled_stem else 4, padding=3, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1) if size.pooled_stem else nn.Identity(),
        )
        stages = []
        channels_in = first
        for stage, (channels, blocks) in enumerate(zip(size.channels, size.blocks, strict=True)):
            strides = [1 if stage == 0 else 2] + [1] * (blocks - 1)
            layers = []
            for stride in strides:
                layers.append(BasicBlock(channels_in, channels, stride))
                channels_in = channels
            stages.append(nn.Sequential(*layers))
        self.stages = nn.ModuleList(stages)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        features = self.stem(pixels)
        outputs = []
        for stage in self.stages:
            features = stage(features)
            outputs.append(features)
        return outputs[1:]


class BasicBlock(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and channels_in == channels
            else nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels))
        )

    def forward(self, features: Tensor) -> Tensor:
        hidden = functional.relu(self.norm1(self.conv1(features)))
        return functional.relu(self.norm2(self.conv2(hidden)) + self.shortcut(features))


def _transformers_backbone(name: str, stored: Mapping[str, Any] | None) -> tuple[nn.Module, tuple[int, ...]]:
    from transformers import AutoBackbone, AutoConfig

    if stored is not None:
        values = dict(stored)
        backbone = AutoBackbone.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
    else:
        try:
            settings = AutoConfig.from_pretrained(name, out_indices=[2, 3, 4])
            # AutoBackbone.from_pretrained asks the hub even for a local folder; the class itself does not.
            backbone = type(AutoBackbone.from_config(settings)).from_pretrained(name, config=settings)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"backbone {name!r} is neither one of {', '.join(RESNETS)} nor a backbone that transformers can load "
                f"({error})"
            ) from error
    return backbone, tuple(backbone.channels)
