"""A small package outside Intaglio with one component a stage, installed the way pip does: a folder with metadata.

Its model is a Markov chain of characters that trains in steps and keeps resumable state, so that the runner can be
killed in the middle of it in a test that takes seconds and needs no torch.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from intaglio.core import registry

COMPONENTS = {
    "data": (
        "mk_lines",
        '''
"""Lines of one text file, an item each."""
from intaglio.core.config import ProjectFile, SourceConfig
from intaglio.core.contracts import Item, Skip

TINY = {"path": "lines.txt", "license": "CC0-1.0"}


class Config(SourceConfig):
    path: ProjectFile
    transforms: tuple[str, ...] = ()


class Component:
    def __init__(self, config):
        self.config = config

    def read(self, ctx):
        path = ctx.project / self.config.path
        seen = set()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            origin = f"{self.config.path}:{number}"
            if not line.strip():
                yield Skip(origin, "empty line")
            elif line in seen:
                yield Skip(origin, "seen before", kind="duplicate")
            else:
                seen.add(line)
                yield Item(media="text", text=line, origin=origin, split="heldout" if number % 5 == 0 else "train")
''',
    ),
    "models": (
        "mk_markov",
        '''
"""A Markov chain of characters, trained one line a step."""
import json
import random
import time
from collections.abc import Sequence
from typing import Annotated

from intaglio.core.config import Names, Role, StepConfig
from intaglio.core.contracts import Estimate, Item

TINY = {"rounds": 2}


class Config(StepConfig):
    data: Annotated[Names, Role(stages=("data", "optimize"), media=("text",))] = ()
    rounds: int = 20
    pause_s: float = 0.0


class Loaded:
    makes = "text"

    def __init__(self, counts):
        self.counts = counts

    def sample(self, seeds, ctx):
        for seed in seeds:
            rng, at, out = random.Random(seed), "^", ""
            while len(out) < 60:
                after = self.counts.get(at)
                if not after:
                    break
                at = rng.choices(sorted(after), [after[c] for c in sorted(after)])[0]
                if at == "$":
                    break
                out += at
            yield Item(media="text", text=out, meta={"seed": seed})


class Component:
    takes = ("text",)
    makes = "text"

    def __init__(self, config):
        self.config = config

    def estimate(self, size, machine):
        return Estimate(1.0 + self.config.rounds * self.config.pause_s, 50_000_000)

    def fit(self, data, ctx):
        state = ctx.work / "state.json"
        done, counts = json.loads(state.read_text()) if state.exists() else (0, {})
        for number in range(done, self.config.rounds):
            for item in data.split("train"):
                for a, b in zip("^" + item.text, item.text + "$", strict=True):
                    counts.setdefault(a, {}).setdefault(b, 0)
                    counts[a][b] += 1
            time.sleep(self.config.pause_s)
            temp = ctx.work / "state.part"
            temp.write_text(json.dumps([number + 1, counts]))
            temp.replace(state)
            ctx.progress(number + 1, self.config.rounds, loss=1.0 / (number + 1))
        (ctx.out / "counts.json").write_text(json.dumps(counts, sort_keys=True))
        return {"rounds": self.config.rounds}

    def load(self, folder, *, device, threads):
        return Loaded(json.loads((folder / "counts.json").read_text()))

    def export(self, folder, to):
        (to / "counts.json").write_bytes((folder / "counts.json").read_bytes())
        return [to / "counts.json"]
''',
    ),
    "knowledge": (
        "mk_words",
        '''
"""How often each word is used."""
from typing import Annotated

from intaglio.core.config import Names, Role, StepConfig
from intaglio.core.contracts import Hit, Item

TINY = {}


class Config(StepConfig):
    items: Annotated[Names, Role(stages=("data",))] = ()


class Loaded:
    def __init__(self, facts):
        self._facts = facts

    def search(self, query, k=5):
        return [Hit(fact.parents[0], fact.text, 1.0) for fact in self._facts if query in fact.text][:k]

    def facts(self):
        return self._facts


class Component:
    def __init__(self, config):
        self.config = config

    def extract(self, items, ctx):
        words = {}
        for item in items:
            for word in item.text.split():
                words.setdefault(word, []).append(item.id)
        (ctx.out / "words.txt").write_text("\\n".join(sorted(words)), "utf-8")
        for word in sorted(words):
            yield Item(media="fact", text=f"{word}: {len(words[word])}", parents=tuple(dict.fromkeys(words[word])))

    def load(self, folder, facts, *, threads):
        return Loaded(facts)
''',
    ),
    "generate": (
        "mk_draw",
        '''
"""Draws from a model."""
from typing import Annotated

from intaglio.core.config import Names, Role, StepConfig

TINY = {"count": 2}


class Config(StepConfig):
    model: Annotated[Names, Role(stages=("models",))] = ()
    knowledge: Annotated[Names, Role(stages=("knowledge",))] = ()
    count: int = 5


class Component:
    def __init__(self, config):
        self.config = config

    def generate(self, inputs, ctx):
        for model in inputs["model"]:
            yield from model.sample(range(ctx.seed % 1000, ctx.seed % 1000 + self.config.count), ctx)
''',
    ),
    "optimize": (
        "mk_new",
        '''
"""Keeps what is not in the archive."""
from typing import Annotated

from intaglio.core.config import Names, Role, StepConfig
from intaglio.core.contracts import Verdict

TINY = {}


class Config(StepConfig):
    items: Annotated[Names, Role(stages=("generate", "optimize"))] = ()


class Component:
    def __init__(self, config):
        self.config = config

    def judge(self, items, archive, ctx):
        known = {item.text for item in archive}
        rank = 0
        for item in items:
            fresh = item.text not in known and len(item.text) > 3
            why = () if fresh else ("copied or short",)
            yield Verdict(item.id, fresh, {"length": float(len(item.text))}, why, rank)
            rank += fresh
''',
    ),
    "publish": (
        "mk_list",
        '''
"""A text file a piece, and a list."""
from typing import Annotated

from intaglio.core.config import Names, Role, StepConfig
from intaglio.core.contracts import PublishedFile

TINY = {}


class Config(StepConfig):
    items: Annotated[Names, Role(stages=("generate", "optimize", "data"))] = ()


class Component:
    def __init__(self, config):
        self.config = config

    def export(self, pieces, ctx):
        for piece in pieces:
            path = ctx.out / f"{piece.id[:12]}.txt"
            path.write_text(piece.text + "\\n", "utf-8")
            assert ctx.trace(piece).steps
            yield PublishedFile(path.name, "text/plain", (piece.id,), title=piece.text[:20])
''',
    ),
}

PROJECT = """
[project]
name = "markov"
seed = 11

[data.lines]
use = "mk_lines"
path = "lines.txt"
license = "CC0-1.0"

[models.chain]
use = "mk_markov"
data = "lines"
rounds = 20
pause_s = 0.0

[knowledge.words]
use = "mk_words"
items = "lines"

[generate.drafts]
use = "mk_draw"
model = "chain"
knowledge = "words"
count = 8

[optimize.best]
use = "mk_new"
items = "drafts"

[publish.site]
use = "mk_list"
items = "best"
"""

LINES = """the press waits in the dark
ink remembers every hand

a plate is a field of small ditches
the paper comes up wet and warm
the press waits in the dark
copper keeps what acid said
the proof is pale and then it is not
a print is a mirror that can be bought
snow on the roof and black on the fingers
the last sheet is always the best one
"""


@contextmanager
def installed(folder: Path) -> Iterator[Path]:
    """The package installed in ``folder``, on the path of this process and of those it starts; then gone again."""
    site = install(folder)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(site), *([before] if before else [])])
    sys.path.insert(0, str(site))
    _forget()
    yield site
    sys.path.remove(str(site))
    _forget()
    os.environ.pop("PYTHONPATH")
    if before is not None:
        os.environ["PYTHONPATH"] = before


def _forget() -> None:
    """What Python and the registry know of an earlier installation: a package once imported keeps its old folder."""
    for name in [name for name in sys.modules if name.split(".")[0] == "intaglio_markov"]:
        del sys.modules[name]
    importlib.invalidate_caches()
    registry._plugins.cache_clear()


def install(folder: Path) -> Path:
    """Write the package and its metadata into ``folder`` (a site directory for PYTHONPATH)."""
    package = folder / "intaglio_markov"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('"""A plug-in."""\n', "utf-8")
    points = []
    for stage, (name, source) in COMPONENTS.items():
        (package / f"{name}.py").write_text(source.lstrip(), "utf-8")
        points.append(f"[intaglio.{stage}]\n{name} = intaglio_markov.{name}\n")
    info = folder / "intaglio_markov-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: intaglio-markov\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text("\n".join(points), "utf-8")
    return folder


def project(folder: Path, text: str = PROJECT) -> Path:
    """A project folder that uses the plug-in."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "intaglio.toml").write_text(text, "utf-8")
    (folder / "lines.txt").write_text(LINES, "utf-8")
    return folder
