"""Oscillators and noise against closed forms, spectral losses against scipy, and the parts of the two networks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from intaglio.media.audio import mel_bands
from intaglio.nn import sound as nets


def noise(length: int = 16_384, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(2, length, generator=torch.Generator().manual_seed(seed))


def small() -> nets.SoundNet:
    filters = torch.from_numpy(mel_bands(8000, nets.HEARD, nets.HEARD_BANDS)).float()
    return nets.SoundNet(nets.SoundShape(rate_hz=8000, width=8, latents=4), filters)


def steady(hz: float, frames: int, batch: int = 1) -> torch.Tensor:
    """(B, 2, L): one pitch, held."""
    return torch.tensor([math.log2(hz / 220), 1.0])[None, :, None].repeat(batch, 1, frames)


def played(levels: torch.Tensor, tone: torch.Tensor, rate_hz: int) -> torch.Tensor:
    return nets.oscillate(levels, nets.turns(tone, nets.cycles(tone, rate_hz), rate_hz), tone, rate_hz)


def strongest(x_T: torch.Tensor, rate_hz: int, low_hz: float, high_hz: float) -> float:
    """Hertz of the strongest peak between two frequencies, far finer than a bin."""
    size = 16 * len(x_T)
    power = torch.fft.rfft(x_T.double() * torch.blackman_window(len(x_T), dtype=torch.float64), size).abs().log()
    low, high = int(low_hz * size / rate_hz), int(high_hz * size / rate_hz)
    at = low + int(power[low:high].argmax())
    left, middle, right = power[at - 1 : at + 2].tolist()
    return (at + (left - right) / (2 * (left - 2 * middle + right))) * rate_hz / size


@pytest.mark.parametrize("rate_hz", [8000, 22_050])
@pytest.mark.parametrize("hz", [55.0, 261.6256, 1234.5])
def test_each_harmonic_sounds_at_its_frequency(hz: float, rate_hz: int) -> None:
    frames = 2 * rate_hz // nets.HOP
    levels = torch.zeros(1, 3, frames * nets.HOP // nets.FINE)
    levels[:, 0], levels[:, 2] = 0.5, 0.25
    x = played(levels, steady(hz, frames), rate_hz)[0]
    assert x.shape == (frames * nets.HOP,)
    heard = [order for order in (1, 3) if order * hz < nets.FADE[0] * rate_hz]
    for order in heard:
        found = strongest(x, rate_hz, (order - 0.5) * hz, (order + 0.5) * hz)
        assert abs(1200 * math.log2(found / (order * hz))) < 0.1
    if len(heard) == 2:
        assert float(x.square().mean()) == pytest.approx((0.5**2 + 0.25**2) / 2, rel=0.01)


def test_nothing_folds_back_from_above_half_the_rate() -> None:
    """3 kHz and its harmonics at a rate of 8 kHz: 6 kHz would come back as 2 kHz, 9 as 1; only 3 is heard."""
    levels = torch.ones(1, 8, 400)
    power = torch.fft.rfft(played(levels, steady(3000.0, 100), 8000)[0].double() * torch.hann_window(25_600)).abs()
    at = 3000 * 25_600 // 8000
    assert float(power[: at - 20].max()) < 1e-4 * float(power[at])
    assert not played(levels, steady(3900.0, 100), 8000).any()
    rising = torch.stack([torch.linspace(2.0, 6.0, 100), torch.ones(100)])[None]  # to 14 kHz
    tail = played(levels[:, :1], rising, 8000)[0, 60 * nets.HOP :]
    assert not tail.any()


def test_a_gliding_pitch_has_no_seam_and_parts_of_it_fit_together() -> None:
    tone = torch.stack([torch.linspace(-1, 1, 90), torch.ones(90)])[None]
    turned = nets.cycles(tone, 22_050)
    whole = nets.turns(tone, turned, 22_050)
    hz = ((whole[:, 1:] - whole[:, :-1]) % 1) * 22_050
    assert 109.9 < float(hz.min()) and float(hz.max()) < 440.1
    assert float((hz[:, 1:] - hz[:, :-1]).abs().max()) < 0.1
    part = nets.turns(tone[:, :, 40:70], turned[:, 40:70], 22_050)
    inner = slice(nets.HOP, -nets.HOP)
    expected = whole[:, 40 * nets.HOP : 70 * nets.HOP]
    torch.testing.assert_close(part[:, inner], expected[:, inner], atol=1e-6, rtol=0)


def test_levels_get_the_gradient_of_a_linear_map() -> None:
    """The sound is linear in the levels, so <made(v), u> = <v, gradient of <made(.), u>> for any v and u."""
    chance = torch.Generator().manual_seed(0)
    tone = torch.stack([torch.linspace(-1, 2, 6), torch.ones(6)])[None].repeat(2, 1, 1)
    u = torch.randn(2, 6 * nets.HOP, generator=chance)
    for bands, make in (
        (12, lambda v: played(v, tone, 8000)),
        (nets.NOISE // 2 + 1, lambda v: nets.shaped_noise(v, white(2, 24, 1))),
    ):
        v = torch.randn(2, bands, 24, generator=chance)
        at = torch.randn(2, bands, 24, generator=chance, requires_grad=True)
        (slope,) = torch.autograd.grad((make(at) * u).sum(), at)
        assert float((slope * v).sum()) == pytest.approx(float((make(v) * u).sum()), rel=1e-3)
        assert float(slope.abs().max()) > 0


def white(batch: int, fine_frames: int, seed: int) -> torch.Tensor:
    """White noise for so many frames of the levels."""
    return nets.white_noise(batch, fine_frames * nets.FINE // nets.HOP, torch.Generator().manual_seed(seed))


def test_levels_of_harmonics_are_those_that_were_played() -> None:
    shape = nets.SoundShape(rate_hz=8000, width=8, latents=4, harmonics=24)
    tone, played_K = steady(220.0, 16), torch.tensor([0.5, 0.0, 0.1])
    x_BT = played(played_K[None, :, None].repeat(1, 1, 16 * nets.HOP // nets.FINE), tone, 8000)
    found_K = nets.harmonic_levels(x_BT, tone, shape).exp()
    assert found_K[[0, 2]] == pytest.approx(played_K[[0, 2]], rel=0.2)  # half a bin off, a Hann window loses 1.4 dB
    assert float(found_K[1]) < 0.01 and float(found_K[5:].max()) < 0.01
    assert found_K[-6:] == pytest.approx(nets.FLOOR)  # from 19 on they lie above half the rate
    tone[:, 1] = 0.0
    assert nets.harmonic_levels(x_BT, tone, shape).exp() == pytest.approx(nets.FLOOR)


def test_a_network_begins_where_it_is_told() -> None:
    model = small()
    model.begin_at(torch.full((64,), -5.0), torch.full((nets.NOISE // 2 + 1,), -20.0))
    bias = model.up[-1].bias
    assert isinstance(bias, torch.Tensor) and bias[:64].eq(-5.0).all() and bias[64:].eq(-8.0).all()


def test_noise_follows_its_levels() -> None:
    flat = torch.ones(1, nets.NOISE // 2 + 1, 2000)
    even = nets.shaped_noise(flat, white(1, 2000, 0))
    assert float(even.std()) == pytest.approx(1 / math.sqrt(3), rel=0.02)
    band = torch.zeros_like(flat)
    band[:, 40:60] = 1.0
    power = torch.fft.rfft(nets.shaped_noise(band, white(1, 2000, 0))[0]).abs().square()
    edges = [int(len(power) * bin_ / (nets.NOISE // 2)) for bin_ in (37, 62)]
    assert float(power[edges[0] : edges[1]].sum() / power.sum()) > 0.999
    half = flat.clone()
    half[..., 1000:] = 0.0
    made = nets.shaped_noise(half, white(1, 2000, 0))[0]
    assert float(made[: 990 * nets.FINE].std()) > 0.5 and not made[1010 * nets.FINE :].any()


def test_magnitudes_are_those_of_scipy() -> None:
    signal = pytest.importorskip("scipy.signal")
    x = noise(8192)[:1].double()
    window = signal.windows.hann(512, sym=False)
    transform = signal.ShortTimeFFT(window, 128, fs=1.0, scale_to=None)
    expected = np.abs(transform.stft(x[0].numpy())) * 2 / window.sum()
    found = nets.magnitudes(x, 512)[0].numpy()
    np.testing.assert_allclose(found[:, 4:-4], _aligned(expected, found)[:, 4:-4], atol=1e-6)


def _aligned(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """scipy begins with slices that only touch the signal; ours are centred on 0, 128, ..."""
    offsets = [np.abs(expected[:, n : n + found.shape[1]] - found)[:, 4:-4].max() for n in range(4)
               if n + found.shape[1] <= expected.shape[1]]  # fmt: skip
    first = int(np.argmin(offsets))
    return expected[:, first : first + found.shape[1]]


def test_distance_is_zero_for_equals_and_known_for_a_gain() -> None:
    x = noise()
    torch.testing.assert_close(nets.spectral_distance(x, x), torch.zeros(2), atol=1e-6, rtol=0)
    # Half as loud, well above the floor: the log part is log 2, the convergence 1/2 of a norm far above its 0.1.
    loud = 50 * x
    found = float(nets.spectral_distance(loud, 0.5 * loud).mean())
    assert found == pytest.approx(math.log(2) + 0.5, abs=0.02)
    assert float(nets.spectral_distance(x, -x).max()) < 1e-5  # phase is free
    assert (nets.spectral_distance(x, torch.zeros_like(x)) > nets.spectral_distance(x, 0.9 * x)).all()


def test_mel_levels_of_a_full_tone() -> None:
    filters = torch.from_numpy(mel_bands(16_000, 1024, 32)).float()
    tone = torch.sin(2 * math.pi * 1000 / 16_000 * torch.arange(16_000))[None]
    levels = nets.mel_db(tone, filters)[0, :, 20]
    assert float(levels.max()) < 0 and float(levels.max()) > -12  # a full-scale sine spreads over a few bins of a band
    assert float(nets.mel_db(torch.zeros(1, 4096), filters).max()) == -80.0


def test_networks_keep_lengths_and_the_noise_is_seeded() -> None:
    model = small()
    x, tone = noise(nets.HOP * 20), steady(200.0, 20, 2)
    mean, logvar = model.encode(x, tone)
    assert mean.shape == logvar.shape == (2, 4, 20)
    with torch.no_grad():
        first = model.decode(mean, tone, white(2, 80, 1))
        again = model.decode(mean, tone, white(2, 80, 1))
        other = model.decode(mean, tone, white(2, 80, 2))
        bare = model.decode(mean, tone, None)
    assert first.shape == x.shape and torch.equal(first, again)
    assert not torch.equal(first, other) and not torch.equal(first, bare)
    assert strongest(bare[0], 8000, 100.0, 300.0) == pytest.approx(200.0, rel=1e-3)


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    model = small()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    x = 0.5 * torch.sin(2 * math.pi * 200 / 8000 * torch.arange(20 * nets.HOP))[None]
    tone, losses = steady(200.0, 20), []
    for step in range(40):
        mean, logvar = model.encode(x, tone)
        made = model.decode(mean + 0.1 * (0.5 * logvar).exp(), tone, white(1, 80, step))
        loss = nets.spectral_distance(x, made).mean()
        optimizer.zero_grad()
        loss.backward()
        if step:  # the last layers of the residual blocks begin at zero and hold back their first ones for one step
            assert all(p.grad is not None and p.grad.any() for p in model.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_hinge_and_likeness_are_what_they_say() -> None:
    one = [torch.ones(3), torch.full((2,), 2.0)]
    assert float(nets.critic_loss(one, [-each for each in one])) == 0.0
    zero = [torch.zeros(3), torch.zeros(2)]
    assert float(nets.critic_loss(zero, zero)) == 2.0
    assert float(nets.likeness_loss(one, one)) == 0.0
    assert float(nets.likeness_loss(one, [2 * each for each in one])) == pytest.approx(1.0, abs=2e-3)


def test_a_critic_learns_to_tell_noise_from_a_tone() -> None:
    torch.manual_seed(0)
    critic = nets.Critic(width=8)
    tone = torch.sin(0.2 * torch.arange(4096))[None].repeat(2, 1)
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-3)
    losses = []
    for step in range(60):
        loss = nets.critic_loss(critic(tone)[0], critic(noise(4096, step))[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
