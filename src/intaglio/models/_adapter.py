"""LoRA adapters by PEFT, and the learned parameters of a given model by themselves; for ``models/finetune.py``."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from intaglio.core.errors import MissingExtra
from intaglio.models._given import Base
from intaglio.nn.checkpoint import write_atomic


class Trainable(nn.Module):
    """The parameters of a model that are learned, alone: what the loop saves, averages and puts back."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple, so that it is not a part of this one
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self.register_parameter(name.replace(".", "|"), parameter)

    def train(self, mode: bool = True) -> Self:
        self._model[0].train(mode)
        return super().train(mode)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """PEFT 0.21 asks transformers 5 for a name that is on its way out; that is between the two of them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        yield


def peft_package() -> Any:
    try:
        import peft
    except ModuleNotFoundError as error:
        raise MissingExtra("peft", extra="finetune", needed_for="models/finetune") from error
    return peft


def with_adapter(model: Any, *, rank: int, alpha: float, seed: int) -> Any:
    """The model with a fresh LoRA adapter on all linear layers but the head; its weights come from ``seed``."""
    from transformers.pytorch_utils import Conv1D

    transposed = any(isinstance(module, Conv1D) for module in model.modules())  # GPT-2 keeps its matrices turned
    settings = peft_package().LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        fan_in_fan_out=transposed,
    )
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        return peft_package().get_peft_model(model, settings)


def settle(path: Path, base: Base) -> None:
    """The adapter's config with sets in order and the base by its name: the same training writes the same bytes."""
    config = json.loads(path.read_text("utf-8"))
    config["target_modules"] = sorted(config["target_modules"])
    config["base_model_name_or_path"] = base.name
    config["revision"] = base.revision or None
    write_atomic(path, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())
