"""The codebook against brute force and a closed form: nearest entries, gradients, averages, entries that start anew."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from intaglio.nn.quantize import Codebook, usage


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def book(size: int = 5, channels: int = 3, **options: float) -> Codebook:
    made = Codebook(size=size, channels=channels, **options)
    made.vectors_KC.copy_(torch.randn(size, channels, generator=seeded(3)))
    made.mass_K.fill_(1.0)
    made.sums_KC.copy_(made.vectors_KC)
    made.calls.fill_(1)
    return made


def test_codes_are_the_nearest_entries_by_brute_force() -> None:
    made, x = book(17, 4).eval(), torch.randn(3, 4, 5, 6, generator=seeded())
    found = made(x)
    for b in range(3):
        for h in range(5):
            for w in range(6):
                distances = [float((x[b, :, h, w] - entry).norm()) for entry in made.vectors_KC]
                assert int(found.codes_BHW[b, h, w]) == distances.index(min(distances))
    torch.testing.assert_close(made.values(found.codes_BHW), found.values_BCHW)


def test_gradients_pass_straight_through_and_commitment_pulls() -> None:
    made, x = book().eval(), torch.randn(2, 3, 2, 2, generator=seeded()).requires_grad_()
    found = made(x)
    weight = torch.randn(2, 3, 2, 2, generator=seeded(1))
    (gradient,) = torch.autograd.grad((found.values_BCHW * weight).sum(), x, retain_graph=True)
    torch.testing.assert_close(gradient, weight)  # van den Oord et al., 3.2: copied past the quantization
    (pull,) = torch.autograd.grad(found.commitment, x)
    torch.testing.assert_close(pull, 2 * (x - found.values_BCHW).detach() / x.numel())
    assert not list(made.parameters())


def test_entries_follow_by_moving_averages() -> None:
    """Appendix A.1, eq. 6 to 8, for one call by hand."""
    made = book(2, 1, decay=0.9)
    made.vectors_KC.copy_(torch.tensor([[0.0], [10.0]]))
    made.sums_KC.copy_(torch.tensor([[0.0], [10.0]]))
    made.train()
    made(torch.tensor([1.0, 2.0, 9.0]).view(1, 1, 1, 3), seeded())
    mass = [0.9 * 1 + 0.1 * 2, 0.9 * 1 + 0.1 * 1]
    sums = [0.1 * 3.0, 0.9 * 10 + 0.1 * 9.0]
    torch.testing.assert_close(made.mass_K, torch.tensor(mass))
    expected = torch.tensor([[sums[0] / mass[0]], [sums[1] / mass[1]]])
    torch.testing.assert_close(made.vectors_KC, expected, rtol=1e-4, atol=1e-4)


def test_only_training_moves_the_book() -> None:
    made, x = book().eval(), torch.randn(2, 3, 2, 2, generator=seeded())
    before = {name: value.clone() for name, value in made.state_dict().items()}
    made(x)
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    made.train()
    with pytest.raises(ValueError, match="generator"):
        made(x)
    made(x, seeded())
    assert not torch.equal(made.vectors_KC, before["vectors_KC"])


def test_dead_entries_start_anew_and_the_whole_book_gets_used() -> None:
    """Sixteen clusters; all entries but one begin far away, and would never be chosen without starting anew."""
    centres = 4.0 * torch.randn(16, 8, generator=seeded(5))
    made = book(16, 8, decay=0.9)
    made.vectors_KC.fill_(1e3)
    made.sums_KC.fill_(1e3)
    made.vectors_KC[0] = made.sums_KC[0] = 0.0
    made.train()
    generator = seeded(6)
    for _ in range(400):
        which = torch.randint(16, (64,), generator=generator)
        x = centres[which] + 0.05 * torch.randn(64, 8, generator=generator)
        made(x.T.reshape(1, 8, 8, 8), generator)
    assert int(made.revived) >= 15
    used, perplexity = usage(made.nearest(centres), 16)
    assert used >= 11 and perplexity > 10
    assert float(torch.cdist(centres, made.vectors_KC).min(1).values.median()) < 0.2


PROGRAM = """
import json, sys
import torch, torch.distributed as dist
from tests.nn.test_quantize import book, seeded
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=int(sys.argv[2]), world_size=2)
made = book(6, 4, decay=0.8).train()
made.shared = True
x = torch.randn(4, 4, 3, 3, generator=seeded(8))[int(sys.argv[2]) * 2 :][:2]
for _ in range(3):
    made(x, seeded(1))
print(json.dumps([made.vectors_KC.tolist(), made.mass_K.tolist(), int(made.revived)]))
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_hold_the_book_of_one_that_sees_all(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "meet")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "GLOO_SOCKET_IFNAME": "lo"}
    started = [
        subprocess.Popen([*command, rank], stdout=subprocess.PIPE, text=True, env=environment) for rank in ("0", "1")
    ]
    told = [json.loads(each.communicate(timeout=120)[0]) for each in started]
    assert told[0] == told[1]
    alone, x = book(6, 4, decay=0.8).train(), torch.randn(4, 4, 3, 3, generator=seeded(8))
    for _ in range(3):
        alone(x, seeded(1))
    assert told[0][2] == int(alone.revived) == 0
    torch.testing.assert_close(torch.tensor(told[0][0]), alone.vectors_KC)
    torch.testing.assert_close(torch.tensor(told[0][1]), alone.mass_K)


def test_the_first_call_takes_entries_from_the_batch() -> None:
    made = Codebook(size=4, channels=2).train()
    x = torch.randn(1, 2, 3, 3, generator=seeded())
    made(x, seeded(1))
    vectors = x.permute(0, 2, 3, 1).reshape(-1, 2)
    assert int(made.calls) == 1 and float(torch.cdist(made.vectors_KC, vectors).min(1).values.max()) < 1.5


def test_usage_is_the_perplexity_of_the_shares() -> None:
    assert usage(torch.tensor([[0, 1], [2, 3]]), 8) == (4, pytest.approx(4.0))
    assert usage(torch.zeros(9, dtype=torch.int64), 8) == (1, pytest.approx(1.0))
    used, perplexity = usage(torch.tensor([0, 0, 0, 1]), 2)
    assert used == 2 and perplexity == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))
