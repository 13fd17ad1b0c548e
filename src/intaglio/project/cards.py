"""Model card and data card of a trained model: written from the ledger and the items, with front matter hubs read.

Layout:  Mitchell et al. (2019), "Model Cards for Model Reporting", arXiv:1810.03993; Gebru et al. (2021), "Datasheets
         for Datasets", arXiv:1803.09010, shortened to what can be told without asking; metadata as Hugging Face has it.

Both lie in the checkpoint, so they hold no time, no machine and no path: the same inputs give the same cards. What only
one run knows (seconds, device, versions, warnings) is added where a model is exported. Values of personal data never
stand here, only their number by kind.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from intaglio.core.contracts import Dataset
from intaglio.core.i18n import t
from intaglio.project.card_layout import bullets, counted, flat, front_matter, shown, table, written
from intaglio.project.lineage import UNKNOWN, Lineage, combined_license
from intaglio.store import Store
from intaglio.store.collections import read_rows
from intaglio.store.records import StepRecord

MODEL_CARD, DATA_CARD = "MODEL_CARD.md", "DATA_CARD.md"
HUB_LICENSES = {
    "apache-2.0", "mit", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0",
    "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "bsd-2-clause", "bsd-3-clause", "isc", "zlib",
    "unlicense", "wtfpl", "odbl", "pddl", "ofl-1.1", "artistic-2.0", "mpl-2.0",
}  # fmt: skip
_TASKS = {
    "text": "text-generation",
    "image": "unconditional-image-generation",
    "audio": "text-to-audio",
    "video": "image-to-video",
}
_LOADED = {"transformers": "FOLDER", "peft": "FOLDER/merged"}  # library: what transformers loads of an exported folder


@dataclass
class Source:
    """A data step the model learned from, as the ledger knows it."""

    name: str
    use: str
    config: dict[str, Any]
    counts: dict[str, Any]
    licenses: dict[str, int]
    findings: dict[str, int]


@dataclass
class Learned:
    """Everything counted over the items a model learned from, in one pass, and the steps they come from."""

    splits: Counter[tuple[str, str]] = field(default_factory=Counter)  # (media, split)
    licenses: Counter[str] = field(default_factory=Counter)
    consents: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    license: str = UNKNOWN  # of all data at or above the model's inputs, also that of a model it started from
    characters: int = 0
    file_bytes: int = 0
    sources: list[Source] = field(default_factory=list)
    models: list[str] = field(default_factory=list)

    @property
    def items(self) -> int:
        return self.splits.total()

    def of(self, split: str) -> int:
        """Items of one split."""
        return sum(count for (_, name), count in self.splits.items() if name == split)


def write(run: Any, data: Dataset, metrics: Mapping[str, Any]) -> None:
    """Write both cards into what the model step made (``run`` is that of ``stages``), in the project's first language.

    data: the items it learned from. metrics: its figures, plain.
    """
    learned = count(data, [each.key for each in run.call.inputs], run.lineage, run.store)
    lang = (*run.call.languages, "en")[0]
    files = {MODEL_CARD: model_card(run.call, learned, metrics, run.ctx.out, lang)}
    files[DATA_CARD] = data_card(run.call.name, learned, lang)
    for name, text in files.items():
        (run.ctx.out / name).write_text(text, "utf-8", newline="\n")


def count(data: Dataset, keys: Sequence[str], lineage: Lineage, store: Store) -> Learned:
    """Count the items, and look up the data and model steps at or above ``keys``."""
    learned = Learned()
    for item in data:
        learned.splits[item.media, item.split or "train"] += 1
        learned.licenses[item.license or UNKNOWN] += 1
        learned.consents[item.consent or UNKNOWN] += 1
        learned.languages[item.language or UNKNOWN] += 1
        learned.characters += len(item.text)
        learned.file_bytes += sum(file.size_bytes for file in item.files)
    above = {license_ for key in keys for license_ in lineage.licenses(key)}
    learned.license = combined_license(above | set(learned.licenses))
    seen: set[str] = set()
    for key in keys:
        for record in lineage.chain(key):
            if record.key not in seen and record.stage == "data":
                learned.sources.append(_source(record, store))
            if record.key not in seen and record.stage == "models":
                learned.models.append(f"{record.name} ({record.use})")
            seen.add(record.key)
    return learned


def _source(record: StepRecord, store: Store) -> Source:
    found: Counter[str] = Counter()
    if "findings" in record.outputs:
        found.update(str(row["kind"]) for row in read_rows(store.blobs, record.outputs["findings"]))
    licenses = {str(key) or UNKNOWN: int(value) for key, value in (record.metrics.get("licenses") or {}).items()}
    return Source(record.name, record.use, record.config, record.counts, licenses, dict(found))


# ----------------------------------------------------------------------------------------------------- the model's card
def model_card(call: Any, learned: Learned, metrics: Mapping[str, Any], out: Path, lang: str) -> str:
    """The whole text of ``MODEL_CARD.md``; ``out`` tells whether transformers can load what was made."""
    library = _library(out)
    media: Counter[str] = Counter()
    for (name, _), number in sorted(learned.splits.items()):
        media[name] += number
    kind = media.most_common(1)[0][0] if media else "text"
    figures = dict(flat({key: value for key, value in metrics.items() if key not in ("memorization", "warnings")}))
    memory = dict(flat({"memorization": metrics.get("memorization") or {}}))
    front: dict[str, Any] = _rights(learned) | {
        "tags": list(dict.fromkeys(["intaglio", call.use, kind])),
        "datasets": sorted({source.name for source in learned.sources}),
        "library_name": library,
        "pipeline_tag": _TASKS.get(kind, ""),
        "model-index": _index(call.name, kind, learned, figures | memory),
    }
    parts = [
        f"# {call.name}",
        t(
            "A `{use}` model that Intaglio trained on {count} items of the owner's own archive.",
            lang,
            use=call.use,
            count=learned.of("train"),
        ),
        _intended(learned, lang),
        _training(call, learned, lang),
        _evaluation(figures, learned, lang),
        _memorized(memory, lang),
        _limits(learned, memory, lang),
        _loading(call.name, library, lang),
    ]
    return front_matter(front) + "\n\n".join(part for part in parts if part) + "\n"


def _intended(learned: Learned, lang: str) -> str:
    lines = [
        "## " + t("What it is for", lang),
        t(
            "Drafts for the archive's owner, which a person looks at before anything is published. Its license is that "
            "of what it learned from: {license}.",
            lang,
            license=f"`{learned.license}`",
        ),
        t(
            "Not for statements of fact, not for imitating a named person, and not for deciding about people: it knows "
            "nothing but the form of its training material.",
            lang,
        ),
    ]
    return "\n\n".join(lines)


def _training(call: Any, learned: Learned, lang: str) -> str:
    rows = [[t("seed", lang), str(call.seed)]]
    rows += [[f"`{key}`", f"`{value}`"] for key, value in shown(call.config)]
    parts = [
        "## " + t("Training", lang),
        _sources_table(learned, lang),
        table([t("setting", lang), t("value", lang)], rows),
    ]
    if learned.models:
        parts.insert(2, t("Started from: {models}.", lang, models=", ".join(learned.models)))
    consents = ", ".join(f"{name} ({number})" for name, number in learned.consents.most_common())
    parts.insert(2, t("Consent as recorded: {consents}.", lang, consents=consents or UNKNOWN))
    return "\n\n".join(part for part in parts if part)


def _evaluation(figures: Mapping[str, Any], learned: Learned, lang: str) -> str:
    if learned.of("heldout"):
        said = t(
            "Figures named heldout are of {count} items that were kept apart from training; those named baseline are "
            "of a trivial model on the same items.",
            lang,
            count=learned.of("heldout"),
        )
    else:
        said = t("Nothing was held out: no figure here says how good the model is on what it has not seen.", lang)
    rows = [[f"`{name}`", written(value)] for name, value in figures.items()]
    return "\n\n".join(["## " + t("Evaluation", lang), said, table([t("figure", lang), t("value", lang)], rows)])


def _memorized(memory: Mapping[str, Any], lang: str) -> str:
    title = "## " + t("Memorization", lang)
    if not memory:
        return "\n\n".join([title, t("Not measured.", lang)])
    said = t(
        "How much of its training material the model gives back, each figure beside what held-out material gives. "
        "A low figure here is no proof that nothing can be drawn out.",
        lang,
    )
    rows = [[f"`{name.removeprefix('memorization.')}`", written(value)] for name, value in memory.items()]
    return "\n\n".join([title, said, table([t("figure", lang), t("value", lang)], rows)])


def _limits(learned: Learned, memory: Mapping[str, Any], lang: str) -> str:
    found = list(_gaps(learned, lang))
    if not memory:
        found.append(t("Whether it repeats its training material was not measured.", lang))
    found.append(t("It repeats the views, gaps and mistakes of its archive, and invents.", lang))
    return "\n\n".join(["## " + t("Limits", lang), bullets(found)])


def _loading(name: str, library: str, lang: str) -> str:
    commands = f"intaglio sample {name}\nintaglio export {name} FOLDER"
    parts = ["## " + t("How to load it", lang), f"```sh\n{commands}\n```"]
    if library in _LOADED:
        folder = _LOADED[library]
        code = f'AutoModelForCausalLM.from_pretrained("{folder}"), AutoTokenizer.from_pretrained("{folder}")'
        parts.append(f"```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n{code}\n```")
    parts.append(t("Weights are safetensors; nothing here needs pickle.", lang))
    return "\n\n".join(parts)


def _library(out: Path) -> str:
    """The library that loads what lies in a checkpoint, as the hub names it."""
    if (out / "adapter_config.json").is_file():
        return "peft"
    try:
        return "transformers" if "architectures" in json.loads((out / "config.json").read_text("utf-8")) else "intaglio"
    except (OSError, ValueError):
        return "intaglio"


def _index(name: str, kind: str, learned: Learned, figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    metrics = []
    for key, value in figures.items():
        number = value[0] if isinstance(value, list) and value else value
        if isinstance(number, float) or (key.startswith("memorization.") and isinstance(number, int)):  # no mere counts
            metrics.append({"type": key, "name": key, "value": number})
    if not metrics:
        return []
    data = ", ".join(source.name for source in learned.sources) or UNKNOWN
    split = "heldout" if learned.of("heldout") else "train"
    dataset = {"type": "intaglio", "name": data, "split": split}
    return [
        {"name": name, "results": [{"task": {"type": _TASKS.get(kind, kind)}, "dataset": dataset, "metrics": metrics}]}
    ]


# ------------------------------------------------------------------------------------------------------ the data's card
def data_card(name: str, learned: Learned, lang: str) -> str:
    """The whole text of ``DATA_CARD.md`` for what the model step ``name`` learned from."""
    front = _rights(learned) | {"tags": ["intaglio"], "size_categories": [_size(learned.items)]}
    media = sorted({media for media, _ in learned.splits})
    rows = [[each, *(str(learned.splits[each, split]) for split in ("train", "heldout"))] for each in media]
    parts = [
        "# " + t("What {name} learned from", lang, name=name),
        t(
            "{count} items, {characters} characters of text, {bytes} bytes of files.",
            lang,
            count=learned.items,
            characters=learned.characters,
            bytes=learned.file_bytes,
        ),
        table([t("media", lang), t("for training", lang), t("held out", lang)], rows),
        "## " + t("Rights", lang),
        counted(t("license", lang), learned.licenses, lang),
        counted(t("consent", lang), learned.consents, lang),
        "## " + t("Languages", lang),
        counted(t("language", lang), learned.languages, lang),
        "## " + t("Sources and what was done to them", lang),
        _sources_table(learned, lang),
        *(_told(source, lang) for source in learned.sources),
        "## " + t("Personal data", lang),
        _personal(learned, lang),
        "## " + t("Known gaps", lang),
        bullets(list(_gaps(learned, lang)) or [t("None that counting shows.", lang)]),
    ]
    return front_matter(front) + "\n\n".join(part for part in parts if part) + "\n"


def _sources_table(learned: Learned, lang: str) -> str:
    names = [
        t("step", lang),
        t("component", lang),
        t("items", lang),
        t("skipped", lang),
        t("duplicates", lang),
        t("licenses", lang),
    ]
    rows = []
    for each in learned.sources:
        counts = [str(each.counts.get(name, 0)) for name in ("items", "skipped", "duplicates")]
        rows.append([each.name, f"`{each.use}`", *counts, ", ".join(sorted(each.licenses)) or UNKNOWN])
    return table(names, rows)


def _told(source: Source, lang: str) -> str:
    told = ", ".join(f"`{key} = {value}`" for key, value in shown(source.config))
    return t("{name}: {settings}.", lang, name=f"**{source.name}**", settings=told) if told else ""


def _personal(learned: Learned, lang: str) -> str:
    total: Counter[str] = Counter()
    for source in learned.sources:
        total.update(source.findings)
    if not total:
        return t("No step looked for it, or none was found.", lang)
    return counted(t("kind", lang), total, lang)


def _gaps(learned: Learned, lang: str) -> Iterator[str]:
    if learned.licenses[UNKNOWN]:
        yield t("{count} items have no known license.", lang, count=learned.licenses[UNKNOWN])
    if learned.consents[UNKNOWN]:
        yield t("{count} items have no recorded consent.", lang, count=learned.consents[UNKNOWN])
    if learned.characters and learned.languages[UNKNOWN]:
        yield t("{count} items have no known language.", lang, count=learned.languages[UNKNOWN])
    if not learned.of("heldout"):
        yield t("Nothing is held out.", lang)
    if learned.of("train") < 1_000:
        yield t("Few items to learn from: {count}.", lang, count=learned.of("train"))


def _rights(learned: Learned) -> dict[str, Any]:
    known = learned.license.lower() in HUB_LICENSES
    front: dict[str, Any] = {"license": learned.license.lower() if known else "other"}
    if not known:
        front["license_name"] = learned.license
    return front | {"language": sorted(name for name in learned.languages if name not in (UNKNOWN, "und"))}


def _size(items: int) -> str:
    for limit, name in ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M")):
        if items < limit:
            return name
    return "n>1M" if items >= 10**7 else "1M<n<10M"


# ------------------------------------------------------------------------------------------------------- on the way out
def export(store: Store, record: StepRecord, checkpoint: Path, folder: Path, *, lang: str) -> None:
    """Copy the cards of a checkpoint into an exported folder, the model's with what only this run knows behind it.

    A checkpoint older than the cards has none.
    """
    for name in (MODEL_CARD, DATA_CARD):
        if not (checkpoint / name).is_file() or (folder / name).exists():
            continue
        text = (checkpoint / name).read_text("utf-8")
        (folder / name).write_text(text + (_of_this_run(record, lang) if name == MODEL_CARD else ""), "utf-8")


def _of_this_run(record: StepRecord, lang: str) -> str:
    rows = [[t("made", lang), record.ended or ""], [t("seconds", lang), f"{record.seconds or 0:.1f}"]]
    rows += [[t("device", lang), record.device], [t("threads", lang), str(record.threads)]]
    rows += [[t("key", lang), f"`{record.key}`"], [t("checkpoint", lang), f"`{record.outputs.get('files', '')}`"]]
    rows += [[f"`{name}`", written(value)] for name, value in flat(record.metrics, of_the_run=True)]
    packages = record.environment.get("packages") or {}
    rows += [[f"`{name}`", str(packages[name])] for name in sorted(packages)]
    parts = ["", "## " + t("This run", lang), table([t("fact", lang), t("value", lang)], rows)]
    warnings = [str(each) for each in record.metrics.get("warnings") or ()]
    return "\n\n".join([*parts, *([bullets(warnings)] if warnings else [])]).removeprefix("\n") + "\n"
