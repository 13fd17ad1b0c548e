"""Given causal language models: found by content, refused where loading them would run foreign code, opened offline.

Only safetensors and JSON are read: ``pytorch_model.bin`` is a pickle, ``trust_remote_code`` is never on. A model of the
hub is fetched as those files alone, at one revision, and afterwards treated like a folder.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from intaglio.core.errors import MissingExtra, UserError
from intaglio.core.hashing import digest, sha256_file
from intaglio.core.i18n import t
from intaglio.models._checkpoint import said
from intaglio.models._facts import Facts, Measured, Tokens
from intaglio.nn.checkpoint import Pickled, read_meta

READ = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "*.txt")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.msgpack", "*.h5")
COPIED_BELOW = 2_000_000_000  # bytes: a base in the project up to here is copied into the checkpoint
PROJECT_FILE = "intaglio.toml"


class _BaseFacts(Facts):
    name: str
    revision: str
    files: dict[str, str] = {}


class Tuned(Measured):
    """``intaglio.json`` of a fine-tuned model."""

    component: Literal["models/finetune"]
    base: _BaseFacts
    context_tokens: Tokens
    usual_tokens: Tokens
    chat: bool


@dataclass(frozen=True)
class Base:
    """A given model on this machine. name: folder inside the project, or the hub's id; files: name to SHA-256."""

    folder: Path
    name: str
    revision: str
    files: Mapping[str, str]

    @property
    def digest(self) -> str:
        return digest(sorted(self.files.items()))

    @property
    def size_bytes(self) -> int:
        return sum((self.folder / name).stat().st_size for name in self.files)

    def facts(self) -> dict[str, Any]:
        """What is written down to find it again; ``revision`` is empty for a folder of the project."""
        return {"name": self.name, "revision": self.revision, "files": dict(self.files)}


def files_of(folder: Path) -> dict[str, str]:
    """The files of a model that are read, with their SHA-256."""
    found = sorted(path for path in folder.iterdir() if path.is_file() and _matches(path.name, READ))
    return {path.name: sha256_file(path) for path in found if not path.name.startswith(".")}


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def base_in(folder: Path, *, name: str, revision: str = "", where: str = "") -> Base:
    """The model in ``folder``. Errors: UserError where there is none that can be read without unpickling."""
    if not (folder / "config.json").is_file():
        ggufs = sorted(folder.glob("*.gguf"))
        raise UserError(
            t("{name} holds no model: config.json is missing", name=name),
            where=where,
            fix=t("a GGUF file is for llama.cpp; name the folder of the original weights")
            if ggufs
            else t("name a folder with config.json, tokenizer.json and model.safetensors"),
        )
    if not list(folder.glob("*.safetensors")):
        pickled = sorted(path.name for path in folder.iterdir() if _matches(path.name, PICKLES))
        what = (
            t("{file} is a pickle, which can run any code when it is read; only safetensors are", file=pickled[0])
            if pickled
            else t("{name} holds no weights: *.safetensors is missing", name=name)
        )
        fix = t(
            "convert it once: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"
            " of transformers writes safetensors"
        )
        raise UserError(what, where=where, fix=fix if pickled else t("copy the weights there too"))
    _refuse_damaged(folder, where)
    return Base(folder, name, revision, files_of(folder))


def _refuse_damaged(folder: Path, where: str) -> None:
    """Headers of the weights and ``config.json`` are read; what ``transformers`` says of a damaged one helps nobody."""
    for path in (folder / "config.json", *sorted(folder.glob("*.safetensors"))):
        try:
            if path.suffix == ".json":
                json.loads(path.read_text("utf-8"))
            else:
                read_meta(path)
        except Pickled as error:
            what = t("{file} is a pickle, which can run any code when it is read; only safetensors are", file=path.name)
            raise UserError(what, where=where, fix=error.convert) from error
        except ValueError as error:
            what = t("{file} of the given model is damaged: {error}", file=path.name, error=said(error))
            raise UserError(what, where=where, fix=t("copy it again from where it came")) from error


def base_of_project(project: Path, name: str, *, where: str) -> Base:
    """The model in a folder of the project. Errors: UserError where it is missing or lies outside."""
    root = project.resolve()
    folder = (root / name).resolve()
    if not folder.is_relative_to(root) or not folder.is_dir():
        raise UserError(
            t("{path} is no folder of the project", path=name),
            where=where,
            fix=t("copy the model's folder into the project, and name it by its path there"),
        )
    return base_in(folder, name=folder.relative_to(root).as_posix(), where=where)


def base_of_hub(name: str, revision: str, *, offline: bool, where: str) -> Base:
    """The model ``org/name`` of the hub at ``revision``; fetched unless it is there already or ``offline`` forbids it.

    Errors: UserError where it may not or cannot be fetched.
    """
    from huggingface_hub import snapshot_download

    if offline:
        raise UserError(
            t("the model {name} would have to be fetched from the hub, and this project is offline", name=name),
            where=where,
            fix=t('offline = false in [project], or download it and name its folder: model = "models/..."'),
        )
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(READ)))
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            t("the model {name} could not be fetched: {error}", name=name, error=str(error)[:200]),
            where=where,
            fix=t("check name and revision, or download it and name its folder"),
        ) from error
    return base_in(folder, name=name, revision=folder.name, where=where)


def find_again(facts: Mapping[str, Any], checkpoint: Path) -> Path:
    """The folder of the base that a checkpoint was trained on: its own copy, the project's, or the hub's cache.

    Errors: UserError where it is missing, or holds other bytes than it did then.
    """
    name, files = str(facts["name"]), dict(facts["files"])
    folder = checkpoint / "base"
    if not folder.is_dir():
        folder = _cached(name, str(facts["revision"])) if facts["revision"] else _beside(checkpoint, name)
    for file, sha256 in files.items():
        path = folder / file
        if not path.is_file() or sha256_file(path) != sha256:
            what = (
                t("{file} of the model {name} is not what this adapter was trained on", file=file, name=name)
                if path.is_file()
                else t(
                    "{file} of the model {name}, which this adapter was trained on, is missing", file=file, name=name
                )
            )
            raise UserError(what, fix=t("put the same files back, or train the step again"))
    return folder


def _beside(checkpoint: Path, name: str) -> Path:
    for parent in (*checkpoint.resolve().parents, Path.cwd(), *Path.cwd().parents):
        if (parent / PROJECT_FILE).is_file():
            return parent / name
    return Path.cwd() / name


def _cached(name: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(READ), local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise UserError(
            t("the model {name}, which this adapter was trained on, is not in the hub's cache here", name=name),
            fix=f"hf download {name} --revision {revision}",
        ) from error


def transformers_here() -> Any:
    """The module ``transformers``, quiet. Errors: MissingExtra."""
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise MissingExtra("transformers", extra="finetune", needed_for="models/finetune") from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def open_model(folder: Path, *, device: str, dtype: torch.dtype, where: str = "") -> Any:
    """The causal language model in ``folder``, in eval mode.

    Errors: UserError where it is of another kind, wants code of its own, or its weights do not fit it.
    """
    library = transformers_here()
    try:
        model, report = library.AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # whatever the class of the model that config.json names raises
        raise UserError(
            t("a model of the kind {kind} cannot be opened: {error}", kind=_kind(folder), error=said(error)),
            where=where,
            fix=t("take a causal language model that transformers knows without code of its own"),
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(
            t("the weights lack {count} of the model's tensors, such as {name}", count=len(missing), name=missing[0]),
            where=where,
            fix=t("take a causal language model, with its head"),
        )
    homeless = _homeless(model, report["unexpected_keys"])
    if homeless:
        raise UserError(
            t(
                "config.json has no layer for {count} of the tensors, such as {name}",
                count=len(homeless),
                name=homeless[0],
            ),
            where=where,
            fix=t("take the config.json that came with these weights"),
        )
    model = model.to(device).eval()
    _ask(model, where)
    return model


@torch.inference_mode()
def _ask(model: Any, where: str) -> None:
    """Two tokens, to see that it answers. Errors: UserError where it fails, or what it says is no number."""
    try:
        silent = bool(model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device)).logits.isnan().any())
    except Exception as error:  # as above
        raise UserError(
            t("the model cannot be asked for a next token: {error}", error=said(error)),
            where=where,
            fix=t("take the config.json that came with these weights"),
        ) from error
    if silent:
        what = t("what the model answers is no number")
        raise UserError(what, where=where, fix=t("take the config.json that came with these weights"))


def _homeless(model: Any, left: Sequence[str]) -> list[str]:
    """Of the tensors left over, those of a kind the model has in other layers; a second head or a tower of pictures is
    none of these."""

    def kind(name: str) -> str:
        return re.sub(r"\d+", "#", name)

    kinds = {kind(name) for name in model.state_dict()}
    return sorted(name for name in left if kind(name) in kinds)


def _kind(folder: Path) -> str:
    told = json.loads((folder / "config.json").read_text("utf-8"))
    return str(told.get("model_type", "?")) if isinstance(told, dict) else "?"


def open_tokenizer(folder: Path, *, where: str = "") -> Any:
    """The tokenizer in ``folder``. Errors: UserError where there is none, or it has no token that ends a text."""
    library = transformers_here()
    try:
        tokenizer = library.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # as above; the tokenizers of Rust raise bare ones
        raise UserError(
            t("the model's tokenizer cannot be opened: {error}", error=said(error)),
            where=where,
            fix=t("copy tokenizer.json and tokenizer_config.json beside the weights"),
        ) from error
    if tokenizer.eos_token_id is None and tokenizer.bos_token_id is None:
        raise UserError(
            t("the model's tokenizer names no token that begins or ends a text"),
            where=where,
            fix=t("set eos_token in tokenizer_config.json"),
        )
    return tokenizer
