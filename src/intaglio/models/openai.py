"""A given model behind any OpenAI-compatible server: vLLM, llama.cpp, LocalAI, `transformers serve`, or a cloud.

Nothing is trained: ``fit`` asks the server once and records what it is. Prompts, and whatever a generator puts there of
the archive, go to the server that the project file names and nowhere else: redirects are not followed, and for a server
on this machine no proxy is used. The stock ``openai`` client speaks (extra ``openai``).
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import openai as client
from pydantic import Field

from intaglio.core.config import StepConfig
from intaglio.core.contracts import Completion, Constraint, Context, Dataset, Estimate, Item, Machine, Sampling, Size
from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.models._pieces import Growing

INSTRUCTION = "You continue texts. Answer with the continuation only: no comment, no heading, no quotation marks."
OPENING = "Write a short text of your own choice."  # stands for an empty prompt, which chat servers refuse


class Config(StepConfig):
    """Where the server is and which of its models to use; nothing is asked of it unless a project file has this step.

    base_url:    such as ``http://127.0.0.1:8000/v1``. model: its name there.
    api_key:     ``"${env.NAME}"``; the key itself is never stored. api_key_env: or the variable's name alone.
    api:         ``chat`` for models that answer, ``completions`` for models that continue.
    instruction: the system message of ``chat``.
    context:     tokens the model sees at once. timeout: seconds to wait for one answer. parallel: requests at once.
    """

    base_url: str
    model: str
    api_key: str = Field(default="", repr=False)
    api_key_env: str = ""
    api: Literal["chat", "completions"] = "chat"
    instruction: str = INSTRUCTION
    context: int = Field(default=4_096, ge=64)
    timeout: float = Field(default=120.0, gt=0)
    parallel: int = Field(default=2, ge=1, le=64)


TINY: dict[str, Any] = {"base_url": "http://127.0.0.1:9/v1", "model": "none", "timeout": 2.0}


class Component:
    """Stage ``models``: a text model that lives elsewhere."""

    takes = ("text",)
    makes = "text"

    def __init__(self, config: Config) -> None:
        self.config = config

    def estimate(self, size: Size, machine: Machine) -> Estimate:
        """One short question."""
        return Estimate(seconds=5.0, bytes=200_000_000)

    def fit(self, data: Dataset, ctx: Context) -> Mapping[str, Any]:
        """Ask the server for one token, and record address and model name.

        Errors: UserError where the address is none, the server does not answer, or it refuses key or model.
        """
        config, host = self.config, _host(self.config.base_url)
        if not is_loopback(host):
            ctx.warn(t("texts put into prompts leave this machine: this step names {host}", host=host))
        engine = Endpoint(config)
        made = engine.complete([""], seeds=[0], sampling=Sampling(max_tokens=1))
        record = {"base_url": config.base_url, "model": config.model, "api": config.api}
        (ctx.out / "engine.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", "utf-8")
        return {"model": config.model, "host": host, "answered": made[0].tokens > 0}

    def load(self, folder: Path, *, device: str, threads: int) -> Endpoint:
        """The engine; asks nothing yet."""
        return Endpoint(self.config)

    def export(self, folder: Path, to: Path) -> list[Path]:
        """Errors: UserError, always: there are no weights here."""
        raise UserError(
            t("'{model}' runs on a server: there are no weights here to export", model=self.config.model),
            fix=t("copy the model from where that server keeps it"),
        )


class Endpoint:
    """A server as a ``core.contracts.TextModel``; safe to use from several threads."""

    makes = "text"

    def __init__(self, config: Config) -> None:
        self.config = config
        self.context_tokens = config.context
        self.follows_instructions = config.api == "chat"
        self._local = is_loopback(_host(config.base_url))
        self._api_key = _key(config)

    def _connect(self) -> client.OpenAI:
        """A client for one call of ours; used as a context manager, it closes its connections."""
        return client.OpenAI(
            base_url=self.config.base_url,
            api_key=self._api_key,
            organization="",  # not whatever the environment has for another server
            project="",
            timeout=self.config.timeout,
            max_retries=2,
            http_client=client.DefaultHttpxClient(follow_redirects=False, trust_env=not self._local),
        )

    def count_tokens(self, text: str) -> int:
        """An estimate on the safe side: the server's tokenizer is not known here."""
        return max(len(text) // 3, len(text.encode("utf-8", "replace")) // 4) + 1

    def sample(self, seeds: Sequence[int], ctx: Context) -> Iterator[Item]:
        """A text of the model's own choice a seed."""
        sampling = Sampling(max_tokens=256, temperature=0.8)
        for done, seed in enumerate(seeds, 1):
            made = self.complete([""], seeds=[seed], sampling=sampling)[0]
            meta = {"seed": seed, "temperature": 0.8, "finish": made.finish, "model": self.config.model}
            yield Item(media="text", text=made.text, meta=meta)
            ctx.progress(done, len(seeds))

    def complete(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        sampling: Sampling,
        constraints: Sequence[Constraint | None] = (),
    ) -> list[Completion]:
        """Continue each prompt on the server; whether a seed is honoured is up to it.

        Errors: UserError for a constraint, for a server that cannot be reached, or one that refuses the request.
        """
        self._refuse(constraints)
        ask = self._chat if self.config.api == "chat" else self._continue
        with self._connect() as server, ThreadPoolExecutor(self.config.parallel) as pool:
            asked = [
                pool.submit(self._explained, ask, server, prompt, seed, sampling)
                for prompt, seed in zip(prompts, seeds, strict=True)
            ]
            return [each.result() for each in asked]

    def stream(
        self, prompt: str, *, seed: int, sampling: Sampling, constraint: Constraint | None = None
    ) -> Generator[str, None, Completion]:
        """Continue a prompt piece by piece, as the server sends it; closing the generator hangs up.

        Errors: as ``complete``'s, the first time a piece is asked for; those of a connection that breaks also later.
        """
        self._refuse([constraint])
        growing, finish, usage = Growing(sampling.stop), None, None
        with self._connect() as server, self._explaining(server), self._sent(server, prompt, seed, sampling) as sent:
            for part in sent:
                usage = part.usage or usage
                if not part.choices:  # the last part of some servers tells the tokens only
                    continue
                choice = part.choices[0]
                finish = choice.finish_reason or finish
                growing.add((choice.delta.content if self.config.api == "chat" else choice.text) or "")
                if piece := growing.piece():
                    yield piece
                if growing.stopped:
                    break
        if piece := growing.piece(last=True):
            yield piece
        return _completion(growing, finish, usage)

    def _refuse(self, constraints: Sequence[Constraint | None]) -> None:
        if any(each is not None for each in constraints):
            raise UserError(
                t("a server cannot be held to a form token by token"),
                where=self.config.base_url,
                fix=t('use a model of your own (use = "gpt") for this step'),
            )

    def nats(self, texts: Sequence[str]) -> list[float]:
        """Errors: UserError, always: servers do not tell how likely a given text is."""
        raise UserError(
            t("this engine does not tell how likely a given text is"),
            where=self.config.base_url,
            fix=t('name a model of your own (use = "gpt") as the judge'),
        )

    # ---------------------------------------------------------------------------------------------------- one request
    def _messages(self, prompt: str) -> list[Any]:
        messages: list[Any] = [{"role": "user", "content": prompt.strip() or OPENING}]
        if self.config.instruction:
            messages.insert(0, {"role": "system", "content": self.config.instruction})
        return messages

    def _chat(self, server: client.OpenAI, prompt: str, seed: int, sampling: Sampling) -> Completion:
        answer = server.chat.completions.create(
            model=self.config.model, messages=self._messages(prompt), stream=False, **_settings(sampling, seed)
        )
        choice = answer.choices[0]
        return _completion(_cut(choice.message.content, sampling), choice.finish_reason, answer.usage)

    def _continue(self, server: client.OpenAI, prompt: str, seed: int, sampling: Sampling) -> Completion:
        answer = server.completions.create(
            model=self.config.model, prompt=prompt or "\n", stream=False, **_settings(sampling, seed)
        )
        choice = answer.choices[0]
        return _completion(_cut(choice.text, sampling), choice.finish_reason, answer.usage)

    def _sent(self, server: client.OpenAI, prompt: str, seed: int, sampling: Sampling) -> client.Stream[Any]:
        """The answer as the server sends it, by server-sent events; as a context manager it hangs up at its end."""
        settings = _settings(sampling, seed)
        if self.config.api == "chat":
            messages = self._messages(prompt)
            return server.chat.completions.create(model=self.config.model, messages=messages, stream=True, **settings)
        return server.completions.create(model=self.config.model, prompt=prompt or "\n", stream=True, **settings)

    def _explained(
        self, ask: Callable[..., Completion], server: client.OpenAI, prompt: str, seed: int, sampling: Sampling
    ) -> Completion:
        with self._explaining(server):
            return ask(server, prompt, seed, sampling)

    @contextmanager
    def _explaining(self, server: client.OpenAI) -> Iterator[None]:
        """What goes wrong inside, in words for people."""
        where, model = self.config.base_url, self.config.model
        try:
            yield
        except client.APITimeoutError as error:
            what = t("the server did not answer within {seconds} s", seconds=self.config.timeout)
            raise UserError(what, where=where, fix=t("raise timeout, or ask for fewer tokens")) from error
        except client.APIConnectionError as error:
            what = t("the server cannot be reached: {cause}", cause=error.__cause__ or error)
            raise UserError(what, where=where, fix=t("start the server, or correct base_url")) from error
        except (client.AuthenticationError, client.PermissionDeniedError) as error:
            what = t("the server refuses the key")
            raise UserError(what, where=where, fix=t('set api_key = "${env.NAME}" and that variable')) from error
        except client.NotFoundError as error:
            what = t("the server knows no model '{model}' at this address", model=model)
            raise UserError(what, where=where, fix=_known_models(server)) from error
        except (client.APIError, json.JSONDecodeError) as error:  # other statuses, no answer at all, an error midway
            what = t("the server refuses the request: {cause}", cause=str(error)[:300])
            raise UserError(what, where=where, fix=t("see the server's own log")) from error


def _known_models(server: client.OpenAI) -> str:
    try:
        names = [each.id for each in server.models.list()][:20]
    except client.OpenAIError:
        return t("correct model or base_url; base_url usually ends in /v1")
    return t("models there: {names}", names=", ".join(names))


def _settings(sampling: Sampling, seed: int) -> dict[str, Any]:
    extra: dict[str, Any] = {}
    if sampling.top_k:
        extra["top_k"] = sampling.top_k
    if sampling.min_p:
        extra["min_p"] = sampling.min_p
    if sampling.repetition_penalty != 1.0:
        extra["repetition_penalty"] = sampling.repetition_penalty
    settings: dict[str, Any] = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": seed % 2**31,
    }
    if sampling.frequency_penalty:
        settings["frequency_penalty"] = sampling.frequency_penalty
    if sampling.presence_penalty:
        settings["presence_penalty"] = sampling.presence_penalty
    if sampling.stop:
        settings["stop"] = list(sampling.stop[:4])  # more are refused by many servers; _cut heeds all
    return settings | ({"extra_body": extra} if extra else {})


def _cut(text: str | None, sampling: Sampling) -> Growing:
    growing = Growing(sampling.stop)
    growing.add(text or "")
    return growing


def _completion(growing: Growing, finish: str | None, usage: Any) -> Completion:
    tokens = int(getattr(usage, "completion_tokens", 0) or 0) or max(1, len(growing.text) // 3)
    stopped = growing.stopped or finish != "length"
    return Completion(text=growing.text, tokens=tokens, finish="stop" if stopped else "length")


def _host(base_url: str) -> str:
    """Errors: UserError where ``base_url`` is no http(s) address or holds a password."""
    try:
        parts = urlsplit(base_url)
        host = parts.hostname or ""
        sound = parts.scheme in ("http", "https") and bool(host) and (parts.port is None or parts.port > 0)
    except ValueError:
        sound, host, parts = False, "", urlsplit("")
    if not sound:
        raise UserError(
            t("base_url is no address: {got}", got=repr(base_url)), fix='base_url = "http://127.0.0.1:8000/v1"'
        )
    if parts.username or parts.password:
        raise UserError(t("base_url holds a user name or password"), fix=t('set api_key = "${env.NAME}" instead'))
    return host


def is_loopback(host: str) -> bool:
    """True for this machine itself; a name counts only if it is ``localhost``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _key(config: Config) -> str:
    if config.api_key_env:
        key = os.environ.get(config.api_key_env, "")
        if not key:
            raise UserError(
                t("the environment variable {name} is not set", name=config.api_key_env),
                fix=f"export {config.api_key_env}=...",
            )
        return key
    return config.api_key or "none"
