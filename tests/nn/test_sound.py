"""The filter bank against its theory, spectral losses against scipy, and the parts of the two networks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from intaglio.nn import sound as nets


def noise(length: int = 16_384, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(2, length, generator=torch.Generator().manual_seed(seed))


def db(error: torch.Tensor, of: torch.Tensor) -> float:
    return 10 * math.log10(float(error.square().mean() / of.square().mean()))


def test_bands_join_to_what_was_split() -> None:
    """Near-perfect reconstruction: noise and single tones come back but for about -60 dB, away from the edges."""
    inner = slice(256, -256)
    x = noise()
    back = nets.join(nets.split(x))
    assert back.shape == x.shape and nets.split(x).shape == (2, nets.BANDS, 16_384 // nets.BANDS)
    assert db((back - x)[:, inner], x[:, inner]) < -60
    for share in (0.011, 0.0625, 0.17, 0.5, 0.93):  # within a band and on the border of two
        tone = torch.sin(math.pi * share * torch.arange(16_384))[None]
        assert db((nets.join(nets.split(tone)) - tone)[:, inner], tone[:, inner]) < -54, share


def test_each_band_holds_its_frequencies() -> None:
    for band in (0, 5, 15):
        tone = torch.sin(math.pi * (band + 0.5) / nets.BANDS * torch.arange(16_384))[None]
        power = nets.split(tone).square().mean((0, 2))
        assert int(power.argmax()) == band
        assert float(power[band] / power.sum()) > 0.998


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
    from intaglio.media.audio import mel_bands

    filters = torch.from_numpy(mel_bands(16_000, 1024, 32)).float()
    tone = torch.sin(2 * math.pi * 1000 / 16_000 * torch.arange(16_000))[None]
    levels = nets.mel_db(tone, filters)[0, :, 20]
    assert float(levels.max()) < 0 and float(levels.max()) > -12  # a full-scale sine spreads over a few bins of a band
    assert float(nets.mel_db(torch.zeros(1, 4096), filters).max()) == -80.0


def test_networks_keep_lengths_and_the_noise_is_seeded() -> None:
    model = nets.SoundNet(nets.SoundShape(width=8, latents=4))
    x = noise(nets.HOP * 20)
    mean, logvar = model.encode(x)
    assert mean.shape == logvar.shape == (2, 4, 20)
    with torch.no_grad():
        first = model.decode(mean, torch.Generator().manual_seed(1))
        again = model.decode(mean, torch.Generator().manual_seed(1))
        other = model.decode(mean, torch.Generator().manual_seed(2))
        bare = model.decode(mean, None)
    assert first.shape == x.shape and torch.equal(first, again)
    assert not torch.equal(first, other) and not torch.equal(first, bare)


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
