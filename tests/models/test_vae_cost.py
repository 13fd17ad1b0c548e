"""What a training is told to take, beside what was measured on 2026-11-24 on a quiet 2-core AVX-512/AMX machine."""

from __future__ import annotations

import pytest

from intaglio.core.contracts import Machine
from intaglio.models import _autoencoder as ae
from intaglio.models import vae, vq
from intaglio.models._cost import judging_seconds, training_seconds

ONE = Machine(device="cpu", threads=1, gflops=117.0, bf16_gflops=535.0, memory_bytes=8 << 30)
TWO = Machine(device="cpu", threads=2, gflops=240.0, bf16_gflops=950.0, memory_bytes=8 << 30)
# net, side, channels, size, batch, pictures a second with one thread and with two (least time of many steps)
MEASURED = [
    ("mlp", 28, 1, "tiny", 128, 46191, 46323),
    ("conv", 32, 3, "tiny", 64, 2717, 4392),
    ("conv", 64, 3, "tiny", 64, 549, 985),
    ("conv", 64, 3, "small", 64, 173, 318),
    ("map", 32, 3, "tiny", 32, 1772, 2537),
    ("map", 64, 3, "small", 32, 169, 315),
    ("vq", 32, 3, "tiny", 32, 1588, 2353),
    ("vq", 64, 3, "tiny", 32, 466, 818),
]


@pytest.mark.parametrize("row", MEASURED, ids=lambda row: f"{row[0]}-{row[1]}-{row[3]}")
@pytest.mark.parametrize("machine", [ONE, TWO], ids=["one", "two"])
def test_told_rates_are_within_30_percent_of_measured_ones(row: tuple[object, ...], machine: Machine) -> None:
    net, side, channels, size, batch = row[:5]
    assert isinstance(side, int) and isinstance(channels, int) and isinstance(batch, int)
    if net == "vq":
        work = vq.work_per_picture(vq.Component(vq.Config(data="x", size=size))._shape(side, channels))
    else:
        component = vae.Component(vae.Config(data="x", size=size, net=net))
        work = vae._work_per_picture(component._shape(side, channels, 3000, "gaussian"))[0]
    pixels = 0 if net == "mlp" else side**2
    many = 10_000_000
    told = many / training_seconds(machine, work=work, images=many, batch=batch, pixels=pixels)
    measured = row[4 + machine.threads]
    assert isinstance(measured, int)
    assert 1 / 1.3 < told / measured < 1.3


def test_a_graphics_processor_is_not_charged_by_the_pixel() -> None:
    gpu = Machine(device="cuda", threads=2, gflops=60_000.0, bf16_gflops=600_000.0, memory_bytes=80 << 30)
    shape = ae.Shape(net="conv", size_px=64, channels=3, width=64, latents=32, blocks=1, likelihood="gaussian")
    work = vae._work_per_picture(shape)[0]
    told = training_seconds(gpu, work=work, images=64_000, batch=64, pixels=64**2)
    assert 4.0 < told < 8.0
    assert judging_seconds(gpu, work=work, items=1000, draws=8192) < 0.1
