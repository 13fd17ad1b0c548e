"""Operations of a step against torch's own counter, and when compiling pays."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from intaglio.models import flow, gan, vae, video, vq
from intaglio.nn.compiling import step_of
from intaglio.nn.cost import operations
from intaglio.nn.device import missing_for_compiling, worth_compiling
from intaglio.nn.loop import Plan, train
from intaglio.nn.optim import adamw
from tests.support import RunContext


class Everything(nn.Module):
    """One of each product that is counted, with what lies between them."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2)
        self.wide = nn.Conv1d(8, 8, 3, padding=2, dilation=2)
        self.up = nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1)
        self.longer = nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1)
        self.last = nn.Linear(6, 5)
        self.norm = nn.GroupNorm(2, 8)
        self.shift = nn.Parameter(torch.zeros(8))
        nn.init.trunc_normal_(self.last.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.silu(self.norm(self.down(x)))
        rows = self.wide(y.flatten(2)) + self.shift[:, None]
        seen = F.scaled_dot_product_attention(rows.mT[:, None], rows.mT[:, None], rows.mT[:, None])[:, 0]
        scores = (seen @ rows).softmax(-1) @ seen
        back = self.up(scores.mT.reshape(y.shape))
        longer = self.longer(back.flatten(2))
        return torch.matmul(self.last(torch.bmm(longer, longer.mT)), torch.ones(5, 2))


def counted_by_torch(make: Callable[[], nn.Module], run: Callable[[Any], object]) -> int:
    model = make()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run(model)
    return int(counter.get_total_flops())


def test_products_are_counted_as_torch_counts_them() -> None:
    def run(model: Everything) -> torch.Tensor:
        return model(torch.zeros(2, 4, 32, 16))

    flops, model = operations(Everything, run)
    assert flops == counted_by_torch(Everything, run) > 1e5
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in Everything().parameters())


def test_a_huge_network_costs_nothing_to_count() -> None:
    """2 m n k; its weights would take 160 GB."""
    x = torch.zeros(1).expand(1_000_000, 200_000)
    assert operations(lambda: nn.Linear(200_000, 200_000), lambda model: model(x))[0] == 2e6 * 200_000**2


def _network(family: str) -> tuple[Callable[[], Any], Callable[[Any], object]]:
    """A family's own network at its smallest, and one look at an example."""
    x, one = torch.zeros(1, 3, 32, 32), torch.zeros(1)
    if family == "flow":
        dims = flow.Component(flow.Config(data="x", size="tiny"))._shape(32, 3, 0)
        return lambda: flow.fn.Velocity(dims), lambda model: model(x, one, one)
    if family == "video":
        clip = video.Component(video.Config(data="x", size="tiny"))._shape(32, 3)
        frames = torch.zeros(1, *clip.dims)
        return lambda: video.fn.Velocity(clip), lambda model: model(frames, one, one, frames[:, 0])
    if family == "gan":
        game = gan.Component(gan.Config(data="x", size="tiny"))._shape(32, 3, 0)
        return lambda: gan.game.Adversaries(game), lambda model: model.critic(
            model.generator(torch.zeros(1, game.latents))
        )
    if family == "vq":
        codes = vq.Component(vq.Config(data="x", size="tiny"))._shape(32, 3)
        return lambda: vq.vq.Tokenizer(codes), lambda model: model.decode(model.encode(x))
    shape = vae.Component(vae.Config(data="x", size="tiny"))._shape(32, 3, 1000, "gaussian")
    return lambda: vae.ae.Autoencoder(shape), lambda model: model.decode(model.encode(x)[0])


@pytest.mark.parametrize("family", ["vae", "vq", "gan", "flow", "video"])
def test_every_network_of_pictures_is_counted_as_by_torch(family: str) -> None:
    make, run = _network(family)
    assert operations(make, run)[0] == counted_by_torch(make, run) > 1e6


def test_a_plan_imports_no_compiler() -> None:
    """Which takes longer than the rest of it."""
    source = """
import sys
from intaglio.core.contracts import Machine, Size
from intaglio.models import flow, gan, gpt, sound, vae, video, vq
for module in (flow, gan, gpt, sound, vae, video, vq):
    module.Component(module.Config(data="x")).estimate(Size(100, 10**6), Machine("cpu", 1, 100.0, 400.0, 10**10))
assert "torch._dynamo" not in sys.modules and "sympy" not in sys.modules
"""
    process = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize(
    ("seconds", "device", "pays"), [(60, "cpu", False), (3600, "cpu", True), (3600, "cuda", False)]
)
def test_compiling_pays_only_for_long_trainings(seconds: float, device: str, pays: bool) -> None:
    assert worth_compiling(seconds, device, possible=True) is pays


def test_where_the_compiler_is_missing_it_is_said_and_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert missing_for_compiling() == "g++" and not worth_compiling(1e6, "cpu")
    said: list[str] = []

    def loss(micro: int, generator: torch.Generator) -> torch.Tensor:
        return torch.zeros(())

    step = step_of(loss, [], seconds=1e6, device="cpu", warn=said.append)
    assert step.loss is loss and step.facts == {} and "g++ is missing" in said[0]
    assert step_of(loss, [], seconds=60.0, device="cpu", warn=said.append).facts == {} and len(said) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while its compiler is imported
@pytest.mark.skipif(bool(missing_for_compiling()), reason="no C++ compiler here")
def test_a_long_training_takes_compiled_steps_and_judges_as_ever(tmp_path: Path) -> None:
    """The real thing, tiny: the same losses but for rounding, gradients as before, and modules left as they were."""
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    seen: list[bool] = []

    def loss(micro: int, generator: torch.Generator) -> torch.Tensor:
        seen.append("forward" in model.__dict__)
        return (model(x) + torch.randn(4, 8, generator=generator)).square().mean()

    step = step_of(loss, [model], seconds=1e6, device="cpu", warn=pytest.fail)
    assert step.facts == {"compiled": True}
    plain, compiled = (each(0, torch.Generator().manual_seed(2)) for each in (loss, step.loss))
    grads = [torch.autograd.grad(each, list(model.parameters())) for each in (plain, compiled)]
    torch.testing.assert_close(plain, compiled)
    torch.testing.assert_close(*grads)
    assert seen == [False, True] and "forward" not in model.__dict__
    trained = train(
        model,
        step.loss,
        optimizers=[adamw(model.parameters(), lr=1e-2)],
        plan=Plan(steps=4, seed=3, evaluations=2, previews=0),
        work=tmp_path,
        report=RunContext(tmp_path),
        identity=step.facts,
        evaluate=lambda: float(model(x).square().mean()),
    )
    assert trained.steps == 4 and set(seen[2:]) == {True}
