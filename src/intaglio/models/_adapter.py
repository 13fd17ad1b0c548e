"""LoRA adapters by PEFT, and the learned parameters of a given model by themselves; for ``models/finetune.py``."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field
from torch import nn

from intaglio.core.errors import MissingExtra, UserError
from intaglio.core.i18n import t
from intaglio.models._checkpoint import said
from intaglio.models._facts import Facts
from intaglio.models._given import Base
from intaglio.nn.checkpoint import load_tensors, write_atomic


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


class AdapterConfig(Facts):
    """``adapter_config.json``, as far as it decides what is computed; its names are PEFT's."""

    peft_type: Literal["LORA"]
    r: Annotated[int, Field(ge=1, le=1_024)]
    lora_alpha: Annotated[float, Field(gt=0.0, le=4_096.0)]
    lora_dropout: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    target_modules: tuple[str, ...]
    fan_in_fan_out: bool = False
    use_rslora: bool = False
    use_dora: Literal[False] = False
    bias: Literal["none"] = "none"


def merged(model: Any, folder: Path) -> Any:
    """The model with the adapter in ``folder`` worked into its weights. Errors: UserError where PEFT cannot do it."""
    peft = peft_package()
    try:
        with quiet():
            adapted = peft.PeftModel.from_pretrained(model, folder)
            taken = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)  # "auto" asks the hub
            if left := sorted(load_tensors(folder / "adapter_model.safetensors")[0].keys() - taken.keys()):
                raise ValueError(f"{len(left)} tensors have no place in it, such as {left[0]}")
            return adapted.merge_and_unload()
    except Exception as error:  # whatever PEFT raises at settings that are not looked at here
        raise UserError(
            t("the adapter cannot be worked into its model: {error}", error=said(error)),
            where=f"{folder.name}/adapter_config.json",
            fix=t("put back the file as it was written, or train the model again: intaglio run"),
        ) from error


def settle(path: Path, base: Base) -> None:
    """The adapter's config with sets in order and the base by its name: the same training writes the same bytes."""
    config = json.loads(path.read_text("utf-8"))
    config["target_modules"] = sorted(config["target_modules"])
    config["base_model_name_or_path"] = base.name
    config["revision"] = base.revision or None
    write_atomic(path, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())
