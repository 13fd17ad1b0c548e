"""One training in several processes: each takes its share of the micro-batches, and all make the same update.

Under ``torchrun`` (WORLD_SIZE in the environment) ``nn.loop.train`` gives micro-batch ``a`` of an update to process
``a % size``, adds the gradients up, and every process makes the same step. Only process 0 judges, saves and tells.
Gradients travel in buckets while the backward pass goes on (Li et al. (2020), "PyTorch Distributed", arXiv:2006.15704,
sec. 3.2): over gloo between processors, over NCCL between GPUs.

Where INTAGLIO_TURNS is set, processes above 0 sleep while 0 prepares data or measures, and are called for a training:
``wait`` there, ``call`` and ``dismiss`` here.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from intaglio.nn.order import derive

BUCKET_BYTES = 4 << 20
_PATIENCE = timedelta(days=7)  # one that died is noticed at once by its broken line; one that measures takes its time
_GO, _LEAVE = 1, 0


class LostProcess(RuntimeError):
    """Another process of this training ended, so this one cannot go on."""

    kind = "lost"


class Dismissed(BaseException):
    """Process 0 needs this one no more; not an error."""


def size() -> int:
    """How many processes share this training; 1 outside ``torchrun``."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def parts(batch: int) -> int:
    """Into how many micro-batches an update of ``batch`` rows is cut here: one a process, 1 where they do not come out.

    Give it as ``Plan.accumulate`` and let ``loss(micro)`` take ``batch // parts`` rows by ``nn.order.rows(micro, ..)``:
    the same rows make up an update, however many processes share it.
    """
    return size() if batch % size() == 0 else 1


def helping() -> bool:
    """True in a process that ends with the training: what it would measure before or after, nobody asks for."""
    return bool(os.environ.get("INTAGLIO_TURNS")) and os.environ.get("RANK", "0") != "0"


class Share:
    """An update of ``batch`` rows cut so that chance is the same however many share it: each micro-batch draws what the
    whole update needs, and takes its rows of it. ``parts`` goes to ``Plan.accumulate``.

    seed: of the ``Plan``. Errors: ValueError where ``count`` parts do not come out.
    """

    def __init__(self, batch: int, *, seed: int, count: int | None = None) -> None:
        self.batch, self.seed = batch, seed
        self.parts = parts(batch) if count is None else count
        if batch % self.parts:
            raise ValueError(f"batch must divide by the parts. Received: batch={batch}, parts={self.parts}")

    def __call__(self, micro: int, generator: torch.Generator) -> tuple[int, slice]:
        """The update a micro-batch belongs to, and which of its rows it takes: every ``parts``-th, so that rows which
        mean something by their place are spread over all. ``generator`` is set to where the update begins."""
        step, part = divmod(micro, self.parts)
        if self.parts > 1:  # else the loop has just done so
            generator.manual_seed(derive(self.seed, "step", step))
        return step, slice(part, None, self.parts)


class Alone:
    """The one process of a training that is not shared."""

    rank, size, turns = 0, 1, False

    def micros(self, count: int) -> range:
        """The micro-batches of an update that are this process's."""
        return range(count)

    def start(self) -> None: ...
    def reducing(self, model: nn.Module, parameters: Sequence[nn.Parameter]) -> None: ...
    def overlapped(self, last: bool) -> None: ...
    def settle(self, loss: Tensor) -> Tensor:
        return loss

    def tell(self, *numbers: float) -> list[float]:
        """What process 0 says, in every process."""
        return list(numbers)

    def gathered(self, values: Tensor) -> Tensor:
        """The rows of all processes, those of process 0 first."""
        return values

    def share_running(self) -> None: ...
    def share_file(self, path: Path) -> None: ...
    def share_weights(self, model: nn.Module) -> None: ...
    def check_equal(self, model: nn.Module) -> None: ...
    def end(self) -> None: ...


class World(Alone):
    """The processes of a shared training, seen from one of them; lines between them are open as long as it lives."""

    def __init__(self, device: torch.device) -> None:
        self.rank, self.size = int(os.environ["RANK"]), size()
        self.turns = bool(os.environ.get("INTAGLIO_TURNS"))
        with _losing():
            if not dist.is_initialized():
                dist.init_process_group("gloo", timeout=_PATIENCE)
                atexit.register(_part)
            self.control: Any = dist.group.WORLD
            self.data: Any = self.control if device.type == "cpu" else dist.new_group(backend="nccl", timeout=_PATIENCE)
        self.device = device
        self._buckets: list[_Bucket] = []
        self._running: list[Tensor] = []  # buffers, and how often each was written: running figures are kept alike
        self._versions: list[int] = []

    def micros(self, count: int) -> range:
        return range(self.rank, count, self.size)

    # ------------------------------------------------------------------------------------------------------------ turns
    def start(self) -> None:
        """Process 0 calls the others to the training it begins."""
        if self.turns and self.rank == 0:
            self.tell(_GO)

    def end(self) -> None:
        """Others than process 0 sleep here until the next training. Errors: Dismissed where there is none."""
        self._close()
        with _losing():
            dist.barrier(group=self.control)  # none leaves while another still reads from it
        if self.turns and self.rank and not self.wait():
            raise Dismissed

    def wait(self) -> bool:
        """True when process 0 begins a training, False when it needs this one no more."""
        return self.tell(_LEAVE)[0] == _GO

    def dismiss(self) -> None:
        """Process 0, after its last training: the others may go."""
        if self.turns and self.rank == 0:
            self.tell(_LEAVE)

    def part(self) -> None:
        """Hold on to no group any more; this object is of no use afterwards."""
        self._close()
        self.control = self.data = None

    def _close(self) -> None:
        for bucket in self._buckets:
            bucket.close()
        self._buckets = []

    # -------------------------------------------------------------------------------------------------------- gradients
    def reducing(self, model: nn.Module, parameters: Sequence[nn.Parameter]) -> None:
        """Make buckets of gradients, those of the last layers first, because the backward pass ends with the first."""
        self._close()
        self._running = [value for value in model.buffers() if value.is_floating_point()]
        self._versions = [value._version for value in self._running]
        kinds: dict[torch.dtype, list[nn.Parameter]] = {}
        for parameter in reversed(parameters):
            here = kinds.setdefault(parameter.dtype, [])
            if sum(each.numel() * each.element_size() for each in here) >= BUCKET_BYTES:
                self._buckets.append(_Bucket(here, self.data))
                here = kinds[parameter.dtype] = []
            here.append(parameter)
        self._buckets += [_Bucket(each, self.data) for each in kinds.values()]

    def overlapped(self, last: bool) -> None:
        """last: the backward pass that comes is the last of this update, and full buckets may leave during it."""
        for bucket in self._buckets:
            bucket.open = last

    def settle(self, loss: Tensor) -> Tensor:
        """Wait until every gradient is the sum over all processes; the sum of ``loss`` is returned."""
        with _losing():
            for bucket in self._buckets:
                bucket.send()
            total = loss.detach().float().clone()
            dist.all_reduce(total, group=self.data)
            for bucket in self._buckets:
                bucket.receive()
            self._settle_running()
        return total

    @torch.no_grad()
    def _settle_running(self) -> None:
        """Buffers that this update wrote (running figures of each process's own batches) become their mean."""
        pairs = zip(self._running, self._versions, strict=True)
        written = [value for value, version in pairs if value._version != version]
        if not written:
            return
        flat = torch.cat([value.float().flatten() for value in written])
        dist.all_reduce(flat, group=self.data)
        flat /= self.size
        for value, mean in zip(written, flat.split([value.numel() for value in written]), strict=True):
            value.copy_(mean.view_as(value))
        self._versions = [value._version for value in self._running]

    # -------------------------------------------------------------------------------------------------- the same state
    def tell(self, *numbers: float) -> list[float]:
        values = torch.tensor(numbers, dtype=torch.float64)
        with _losing():
            dist.broadcast(values, 0, group=self.control)
        return values.tolist()

    def gathered(self, values: Tensor) -> Tensor:
        found = [torch.empty_like(values) for _ in range(self.size)]
        with _losing():
            dist.all_gather(found, values.contiguous(), group=self.data)
        return torch.cat(found)

    @torch.no_grad()
    def share_running(self) -> None:
        """Buffers as process 0 has them after it judged alone, in every process."""
        if not self._running:
            return
        flat = torch.cat([value.double().flatten() for value in self._running])
        with _losing():
            dist.broadcast(flat, 0, group=self.data)
        for value, said in zip(self._running, flat.split([value.numel() for value in self._running]), strict=True):
            if self.rank:
                value.copy_(said.view_as(value))
        self._versions = [value._version for value in self._running]

    def share_file(self, path: Path) -> None:
        """What process 0 has in this file of its folder, the others have in theirs; taken away where it has none."""
        data = path.read_bytes() if self.rank == 0 and path.exists() else b""
        length = int(self.tell(len(data))[0])
        if not length:
            return
        whole = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(length, dtype=torch.uint8)
        with _losing():
            dist.broadcast(whole, 0, group=self.control)
        if self.rank:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(whole.numpy().tobytes())

    @torch.no_grad()
    def share_weights(self, model: nn.Module) -> None:
        """Weights and buffers of process 0, in every process."""
        with _losing():
            for value in model.state_dict().values():
                dist.broadcast(value, 0, group=self.data)

    @torch.no_grad()
    def check_equal(self, model: nn.Module) -> None:
        """Errors: RuntimeError where weights differ between processes: something changes them outside of the loop."""
        sums = torch.stack([value.double().sum() for value in model.parameters()] or [torch.zeros(())])
        least, most = sums.clone(), sums.clone()
        with _losing():
            dist.all_reduce(least, op=dist.ReduceOp.MIN, group=self.data)
            dist.all_reduce(most, op=dist.ReduceOp.MAX, group=self.data)
        if not torch.equal(least.nan_to_num(), most.nan_to_num()):
            raise RuntimeError("the processes of this training hold different weights: it cannot be shared")


class _Bucket:
    """Gradients that travel together; ``open`` lets them leave as soon as the last of them is there."""

    def __init__(self, parameters: Sequence[nn.Parameter], group: Any) -> None:
        self.parameters, self.group, self.open = list(parameters), group, False
        first = self.parameters[0]
        self.flat = torch.zeros(sum(p.numel() for p in self.parameters), dtype=first.dtype, device=first.device)
        pieces = self.flat.split([p.numel() for p in self.parameters])
        # laid out as its parameter: the fused optimizer takes all it is given to lie alike, and does not look
        self.views = [piece.as_strided(p.size(), p.stride()) for piece, p in zip(pieces, self.parameters, strict=True)]
        self.missing = len(self.parameters)
        self.work: Any = None
        self.hooks = [p.register_post_accumulate_grad_hook(self._ready) for p in self.parameters]

    def _ready(self, parameter: Tensor) -> None:
        if self.open:
            self.missing -= 1
            if self.missing == 0:
                self.send()

    def send(self) -> None:
        """Start the sum, once an update; a gradient that is missing counts as zero."""
        if self.work is not None:
            return
        for view, parameter in zip(self.views, self.parameters, strict=True):
            if parameter.grad is None:
                view.zero_()
            elif parameter.grad is not view:
                view.copy_(parameter.grad)
        self.work = dist.all_reduce(self.flat, group=self.group, async_op=True)

    def receive(self) -> None:
        """Wait for the sum; it is the gradient now."""
        self.work.wait()
        for view, parameter in zip(self.views, self.parameters, strict=True):
            parameter.grad = view
        self.missing, self.work, self.open = len(self.parameters), None, False

    def close(self) -> None:
        for hook in self.hooks:
            hook.remove()


@contextmanager
def _losing() -> Iterator[None]:
    """A line to another process that breaks is said for what it is."""
    try:
        yield
    except (dist.DistError, RuntimeError) as error:
        raise LostProcess(f"another of the {size()} processes of this training ended ({error})") from error


_worlds: dict[str, World] = {}  # by device


def join(device: torch.device) -> Alone:
    """The processes this training is shared with; told by the environment that ``torchrun`` sets."""
    if size() == 1:
        return Alone()
    if str(device) not in _worlds:
        _worlds[str(device)] = World(device)
    return _worlds[str(device)]


def _part() -> None:
    """Before the interpreter ends: a group that somebody still holds then is torn down beside its running threads,
    one of which may want the interpreter, and the process aborts (seen in one of six under load)."""
    for world in _worlds.values():
        world.part()
    _worlds.clear()
    if dist.is_initialized():
        dist.destroy_process_group()
