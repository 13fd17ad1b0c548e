"""Networks between pictures and latent vectors: a plain perceptron and a small residual convolutional pair.

Papers:  Child (2021), "Very Deep VAEs", arXiv:2011.10650 (residual blocks without normalization, last layer near zero);
         Odena et al. (2016), "Deconvolution and Checkerboard Artifacts" (resize and convolve instead of transposing).
Licence: ours.
Shapes:  B batch, C channels, H height, W width, Z latent dimensions. Pictures are floats in [0, 1].

Most work is done at a quarter of the side and in 32 channels or more: that is where a processor multiplies fast. The
decoder enlarges by bilinear steps with a convolution after each: what it has not seen then comes out smooth, not noisy.
A picture becomes either one vector (``ConvEncoder``, ``MlpEncoder``) or a small map of vectors (``MapEncoder``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def sides(size_px: int) -> list[int]:
    """The side of the feature maps at each level, from a quarter of ``size_px`` halved while it stays even and above 4.

    Errors: ValueError: size_px is not a positive multiple of 4.
    """
    if size_px < 4 or size_px % 4:
        raise ValueError(f"size_px must be a multiple of 4. Received: size_px={size_px}")
    found = [size_px // 4]
    while found[-1] % 2 == 0 and found[-1] > 8:
        found.append(found[-1] // 2)
    return found


class Block(nn.Module):
    """x + conv(silu(conv(silu(x)))), the second convolution starting at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = zeroed(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        hidden = self.first(nn.functional.silu(x_BCHW))
        return x_BCHW + self.second(nn.functional.silu(hidden))


class ConvEncoder(nn.Module):
    """Pictures (B, C, H, W) to (B, 2Z): 4x4 patches, residual blocks with halvings between them, one linear layer."""

    def __init__(self, *, size_px: int, channels: int, width: int, latents: int, blocks: int = 1) -> None:
        super().__init__()
        levels = sides(size_px)
        layers: list[nn.Module] = [nn.PixelUnshuffle(4), nn.Conv2d(16 * channels, width, 3, padding=1)]
        for level, _ in enumerate(levels):
            if level:
                layers.append(nn.Conv2d(width << (level - 1), width << level, 2, stride=2))
            layers += [Block(width << level) for _ in range(blocks)]
        self.maps = nn.Sequential(*layers, nn.SiLU(), nn.Flatten())
        self.out = nn.Linear((width << (len(levels) - 1)) * levels[-1] ** 2, 2 * latents)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.out(self.maps(x_BCHW))


class ConvDecoder(nn.Module):
    """Latents (B, Z) to pictures (B, outputs, H, W): the encoder's mirror with bilinear steps; no last squashing."""

    def __init__(self, *, size_px: int, outputs: int, width: int, latents: int, blocks: int = 1) -> None:
        super().__init__()
        levels = sides(size_px)
        self.shape = (width << (len(levels) - 1), levels[-1], levels[-1])
        self.into = nn.Linear(latents, self.shape[0] * levels[-1] ** 2)
        layers: list[nn.Module] = []
        for level in reversed(range(len(levels))):
            layers += [Block(width << level) for _ in range(blocks)]
            if level:
                layers += [nn.Conv2d(width << level, width << (level - 1), 1), _twice()]
        fine = max(16, width // 2)
        layers += [nn.Conv2d(width, fine, 1), _twice(), Block(fine), nn.SiLU()]
        self.maps = nn.Sequential(*layers, nn.Conv2d(fine, 4 * outputs, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, z_BZ: Tensor) -> Tensor:
        x_BCHW = self.into(z_BZ).view(-1, *self.shape)
        return self.maps(x_BCHW.contiguous(memory_format=torch.channels_last))


def _twice() -> nn.Module:
    return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)


class MapEncoder(nn.Module):
    """Pictures (B, C, H, W) to maps of codes (B, outputs, H / down, W / down); down is 4 or 8.

    A linear path from each patch of ``down`` pixels a side lies beside the convolutions, whose last layer starts at
    zero: with the patches' principal components put in (``principal_start``) it is fair before the first step.
    """

    def __init__(self, *, channels: int, outputs: int, width: int, blocks: int = 1, down: int = 4) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.PixelUnshuffle(4), nn.Conv2d(16 * channels, width, 3, padding=1)]
        layers += [Block(width) for _ in range(blocks)]
        if down == 8:
            layers.append(nn.Conv2d(width, width, 2, stride=2))
        layers += [Block(width) for _ in range(blocks)]
        self.maps = nn.Sequential(*layers, nn.SiLU(), zeroed(nn.Conv2d(width, outputs, 3, padding=1)))
        self.plain = nn.Sequential(nn.PixelUnshuffle(down), nn.Conv2d(channels * down**2, outputs, 1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.maps(x_BCHW) + self.plain(x_BCHW)


class MapDecoder(nn.Module):
    """Maps of codes (B, inputs, H, W) to pictures (B, outputs, H * down, W * down), with a linear path beside; no last
    squashing."""

    def __init__(self, *, inputs: int, outputs: int, width: int, blocks: int = 1, down: int = 4) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(inputs, width, 3, padding=1)]
        layers += [Block(width) for _ in range(blocks)]
        if down == 8:
            layers.append(_twice())
        layers += [Block(width) for _ in range(blocks)]
        fine = max(16, width // 2)
        layers += [nn.Conv2d(width, 4 * fine, 1), nn.PixelShuffle(2), Block(fine), nn.SiLU()]
        last = zeroed(nn.Conv2d(fine, 4 * outputs, 3, padding=1))
        self.maps = nn.Sequential(*layers, last, nn.PixelShuffle(2))
        self.plain = nn.Sequential(nn.Conv2d(inputs, outputs * down**2, 1), nn.PixelShuffle(down))

    def forward(self, z_BCHW: Tensor) -> Tensor:
        z = z_BCHW.contiguous(memory_format=torch.channels_last)
        return self.maps(z) + self.plain(z)


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer with all its weights set to zero."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


@torch.no_grad()
def principal_start(encoder: MapEncoder, decoder: MapDecoder, x_BCHW: Tensor, *, whiten: bool) -> None:
    """Put the principal components of the patches of ``x`` (as the encoder gets them) into the linear paths.

    whiten: each code has unit variance; else the variance of its component, so that distances are those of pictures.
    Codes that there are no components for stay as they are.
    """
    to_codes, to_pixels = encoder.plain[1], decoder.plain[0]
    assert isinstance(to_codes, nn.Conv2d) and isinstance(to_pixels, nn.Conv2d)
    assert to_codes.bias is not None and to_pixels.bias is not None
    patches_ND = encoder.plain[0](x_BCHW).permute(0, 2, 3, 1).flatten(0, 2).double()
    mean_D = patches_ND.mean(0)
    values, vectors = torch.linalg.eigh((patches_ND - mean_D).T @ (patches_ND - mean_D) / len(patches_ND))
    count = min(to_pixels.in_channels, len(values))
    vectors = vectors.flip(1)[:, :count]
    vectors = vectors * vectors.sum(0).sign()  # a component and its negative are alike: one of them, on every machine
    spread = values.flip(0)[:count].clamp(min=1e-6).sqrt() if whiten else torch.ones(count, dtype=torch.float64)
    to_codes.weight[:count, :, 0, 0] = (vectors / spread).T.float()
    to_codes.bias[:count] = -(mean_D @ (vectors / spread)).float()
    to_pixels.weight[:, :count, 0, 0] = (vectors * spread).float()
    to_pixels.bias.copy_(mean_D.float())


class MlpEncoder(nn.Module):
    """Flat pictures (B, C*H*W) to 2 * latents numbers, (B, 2Z), through one hidden layer with ReLU."""

    def __init__(self, *, pixels: int, hidden: int, latents: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latents))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class MlpDecoder(nn.Module):
    """Latents (B, Z) to pictures (B, outputs, H, W) through one hidden layer with ReLU; no last squashing."""

    def __init__(self, *, shape: tuple[int, int, int], hidden: int, latents: int) -> None:
        super().__init__()
        pixels = shape[0] * shape[1] * shape[2]
        self.layers = nn.Sequential(
            nn.Linear(latents, hidden), nn.ReLU(), nn.Linear(hidden, pixels), nn.Unflatten(1, shape)
        )

    def forward(self, z_BZ: Tensor) -> Tensor:
        return self.layers(z_BZ)
