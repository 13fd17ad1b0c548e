"""CONTRACT's project file as it stands, on a folder never seen before, with the network cut.

One project is made for the whole file and taken through its life in order: run, run again, look, verify, trace, replay,
change, forget. Everything goes through the command line in processes of its own, as a person would do it; what is asked
of every published file, by one process that gives the command once a file.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

CONTRACT = """
[project]
name = "almanac"
seed = 7

[data.texts]
use = "folder"
path = "archive/texts"
license = "CC0-1.0"

[data.pictures]
use = "folder"
path = "archive/pictures"
license = "CC0-1.0"

[models.writer]
use = "gpt"
data = "texts"
size = "tiny"

[models.engraver]
use = "vae"
data = "pictures"
size = "tiny"

[knowledge.index]
use = "embeddings"
items = "texts"

[generate.drafts]
use = "article"
model = "writer"
knowledge = "index"
count = 6

[generate.plates]
use = "picture"
model = "engraver"
count = 12

[optimize.best]
use = "pick"
items = ["drafts", "plates"]
keep = 6

[publish.site]
use = "site"
items = "best"
"""

MONTHS = "January February March April May June July August September October November December".split()
WORK = ["sow the beans", "turn the compost", "prune the vine", "graft the pear", "mend the fence", "lift the potatoes"]


def _cut_network() -> list[str]:
    """A prefix that runs a command without any network, where the kernel lets us."""
    unshare = shutil.which("unshare")
    if unshare and subprocess.run([unshare, "-rn", "true"], capture_output=True, check=False).returncode == 0:
        return [unshare, "-rn"]
    return []


def _archive(folder: Path) -> None:
    from PIL import Image, ImageDraw

    rng = random.Random(3)
    texts, pictures = folder / "archive" / "texts", folder / "archive" / "pictures"
    texts.mkdir(parents=True)
    pictures.mkdir(parents=True)
    for number, month in enumerate(MONTHS):
        lines = [f"# {month}", ""]
        for week in range(1, 5):
            task, other = rng.sample(WORK, 2)
            lines.append(
                f"In week {week} of {month} we {task} before the rain, and when the ground is dry we {other}. "
                f"The old gardener said that {month.lower()} is kind to those who {rng.choice(WORK)} early."
            )
        (texts / f"{number + 1:02d}.md").write_text("\n".join(lines) + "\n", "utf-8")
    shutil.copyfile(texts / "03.md", texts / "99-copy.md")
    (texts / "letter.txt").write_text("Write to me at grower@example.org when the beans are up.\n", "utf-8")
    (texts / "broken.txt").write_bytes(b"\x00\x01\x02\x03" * 64)
    for number in range(40):
        picture = Image.new("RGB", (32, 32), (230, 225, 210))
        draw = ImageDraw.Draw(picture)
        x, y, r = rng.uniform(9, 23), rng.uniform(9, 23), rng.uniform(4, 8)
        colour = (int(120 + 100 * rng.random()), int(60 + 80 * rng.random()), 60)
        draw.ellipse([x - r, y - r, x + r, y + r], fill=colour)
        draw.line([x, y - r, x + 4 * math.sin(number), y - r - 6], fill=(60, 90, 40), width=2)
        picture.save(pictures / f"fruit-{number:02d}.png")
        (pictures / f"fruit-{number:02d}.txt").write_text("a fruit\n", "utf-8")
    (folder / "intaglio.toml").write_text(CONTRACT, "utf-8")


MAIN = "import sys; from intaglio.cli.main import main; sys.exit(main())"
EACH = """
import sys
from intaglio.cli.main import main
folder, command, *files = sys.argv[2:]
for file in files:
    sys.argv[1:] = ["-C", folder, command, file, "--json"]
    if code := main():
        sys.exit(code)
"""


class Cli:
    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        self.home, self.environment = home, {**os.environ, "INTAGLIO_HOME": str(home), "INTAGLIO_LANG": "en"}
        self.prefix = _cut_network()

    def __call__(self, *words: str, code: int = 0) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._printed(MAIN, *words, "--json", code=code)[-1])
        return answer

    def each(self, command: str, files: list[Path]) -> list[dict[str, Any]]:
        """The answer to a command about each file, given one after the other by one process."""
        return [json.loads(line) for line in self._printed(EACH, command, *map(str, files))]

    def _printed(self, program: str, *words: str, code: int = 0) -> list[str]:
        done = subprocess.run(
            [*self.prefix, sys.executable, "-c", program, "-C", str(self.folder), *words],
            capture_output=True,
            text=True,
            env=self.environment,
            check=False,
        )
        assert done.returncode == code, f"{words}: exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        assert "Traceback" not in done.stderr
        return done.stdout.strip().splitlines()


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    folder = tmp_path_factory.mktemp("almanac")
    _archive(folder)
    return Cli(folder, tmp_path_factory.mktemp("home"))


def _published(cli: Cli) -> list[Path]:
    return sorted(p for p in (cli.folder / "public" / "site").rglob("*") if p.is_file())


def test_1_plan_says_what_will_be_done(cli: Cli) -> None:
    steps = cli("plan")["steps"]
    assert [step["state"] for step in steps] == ["new"] * 9
    assert all(step["seconds"] > 0 and step["bytes"] > 0 and step["reason"] for step in steps)


def test_2_run_makes_everything_once(cli: Cli) -> None:
    before = {p: p.read_bytes() for p in (cli.folder / "archive").rglob("*") if p.is_file()}
    answer = cli("run")
    assert (answer["ran"], answer["kept"], answer["failed"]) == (9, 0, 0)
    texts = next(step for step in answer["steps"] if step["name"] == "texts")["counts"]
    assert (texts["items"], texts["skipped"], texts["duplicates"]) == (13, 1, 1)
    again = cli("run")
    assert (again["ran"], again["kept"], again["failed"]) == (0, 9, 0)
    assert {p: p.read_bytes() for p in (cli.folder / "archive").rglob("*") if p.is_file()} == before
    assert {p.name for p in cli.folder.iterdir()} == {"archive", "intaglio.toml", ".intaglio", "public"}
    learned = json.loads((cli.home / "cache" / "machine" / "foretold.json").read_text())
    assert all(sorted(of) == ["gpt", "vae"] for of in learned.values()), "the next plan goes by what these two took"


def test_3_show_tells_what_was_skipped_and_found(cli: Cli) -> None:
    answer = cli("show", "texts", "--limit", "5")
    assert len(answer["items"]) == 5
    assert {"id", "media", "license", "origin"} <= set(answer["items"][0])
    reasons = {note["origin"]: note for note in answer["skipped"]}
    assert any("broken.txt" in origin for origin in reasons)
    assert any(found["kind"] == "email" and "letter.txt" in found["origin"] for found in answer["findings"])
    rest = cli("show", "texts", "--limit", "20", "--after", answer["next"])
    assert len(rest["items"]) == 8
    verdicts = cli("show", "best", "--limit", "50")["verdicts"]
    assert all(row["kept"] or row["reasons"] for row in verdicts)


def test_4_every_published_file_verifies_and_a_changed_byte_does_not(cli: Cli, tmp_path: Path) -> None:
    files = _published(cli)
    assert any(path.suffix == ".html" for path in files)
    for path, answer in zip(files, cli.each("verify", files), strict=True):
        assert answer["valid"], (path, answer)
        assert (answer["credentials"], answer["labels"], answer["ledger"]) == ("valid", "valid", "valid")
    for path in [p for p in files if p.suffix in (".png", ".html")][:3]:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        forged = tmp_path / path.name
        forged.write_bytes(bytes(data))
        if path.with_name(path.name + ".c2pa").exists():
            shutil.copyfile(path.with_name(path.name + ".c2pa"), tmp_path / (path.name + ".c2pa"))
        assert not cli("verify", str(forged), code=1)["valid"]


def test_5_trace_goes_back_to_every_source(cli: Cli) -> None:
    pages = [p for p in _published(cli) if p.suffix in (".png", ".html")]
    traced = cli.each("trace", pages)
    origins = {source["origin"] for answer in traced for source in answer["sources"]}
    assert any(origin.startswith("archive/") for origin in origins)
    assert all(source["license"] == "CC0-1.0" for answer in traced for source in answer["sources"])
    assert {model["step"] for answer in traced for model in answer["models"]} <= {"writer", "engraver"}


def test_6_replay_makes_the_same_bytes(cli: Cli) -> None:
    picture = next(p for p in _published(cli) if p.suffix in (".png", ".html"))
    answer = cli("replay", str(picture))
    assert answer["differs"] == [] and len(answer["same"]) >= 3


def test_7_a_changed_step_reruns_itself_and_its_followers(cli: Cli) -> None:
    path = cli.folder / "intaglio.toml"
    path.write_text(CONTRACT.replace("keep = 6", "keep = 4"), "utf-8")
    states = {step["name"]: step["state"] for step in cli("plan")["steps"]}
    assert {name for name, state in states.items() if state == "changed"} == {"best", "site"}
    answer = cli("run")
    assert (answer["ran"], answer["kept"]) == (2, 7)
    published = {p.name for p in _published(cli)}
    path.write_text(CONTRACT, "utf-8")
    assert (cli("run")["ran"], cli("run")["ran"]) == (0, 0)  # what was made before is still there
    assert {p.name for p in _published(cli)} != published


def test_8_forget_blocks_rebuilds_and_proves(cli: Cli) -> None:
    said = cli("forget", "archive/texts/letter.txt", "--dry-run")
    assert [each["name"] for each in said["datasets"]] == ["texts"]
    assert {each["name"] for each in said["models"]} == {"writer", "index"}
    assert cli("run")["ran"] == 0  # a dry run changed nothing
    done = cli("forget", "archive/texts/letter.txt")
    assert done["rebuilt"]["failed"] == 0 and done["rebuilt"]["ran"] >= 5
    assert done["proof"]["still_in"] == [] and done["proof"]["erased_blobs"] > 0
    assert (cli.folder / "archive" / "texts" / "letter.txt").exists()  # the person's own file is theirs
    show = cli("show", "texts", "--limit", "50")
    assert not any("letter.txt" in item["origin"] for item in show["items"])
    assert any("letter.txt" in note["origin"] for note in show["skipped"])
    assert cli("run")["ran"] == 0
    assert all(answer["valid"] for answer in cli.each("verify", _published(cli)))


def test_9_mistakes_end_with_2_and_start_nothing(cli: Cli) -> None:
    for words in (["show", "nothing"], ["trace", "no-such-file"], ["forget", "archive/none.txt"], ["train", "texts"]):
        assert "error" in cli(*words, code=2)
