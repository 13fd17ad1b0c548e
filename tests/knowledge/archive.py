"""A small archive of two subjects in two languages, made for these tests."""

from __future__ import annotations

import random

from intaglio.core.contracts import Item

SEA = "harbour tide sail anchor gull wave keel salt mast lighthouse".split()
BREAD = "oven flour dough crust yeast loaf baker kneading rye apron".split()
FILL = "in the evening we saw how a quiet hand would turn and wait until it was done".split()
SHAN = ["青山", "白云", "松风", "古寺", "石径", "樵夫"]
SHUI = ["江水", "孤舟", "渔火", "沙鸥", "烟波", "芦花"]


def english(seed: int, subject: list[str], sentences: int = 4) -> str:
    rng = random.Random(seed)
    return " ".join(
        " ".join(rng.choice(subject if n % 2 else FILL) for n in range(9)).capitalize() + "." for _ in range(sentences)
    )


def chinese(seed: int, subject: list[str]) -> str:
    rng = random.Random(seed)
    return (
        "".join(f"{rng.choice(subject)}{rng.choice('入映照伴')}{rng.choice(subject)}，" for _ in range(4))
        + "日暮人归。"
    )


def archive() -> list[Item]:
    items = []
    for n in range(25):
        items.append(Item(media="text", text=english(n, SEA), origin=f"sea/{n}.txt", language="en"))
        items.append(Item(media="text", text=english(1000 + n, BREAD), origin=f"bread/{n}.txt", language="en"))
    for n in range(12):
        items.append(Item(media="text", text=chinese(n, SHAN), origin=f"shan/{n}.txt", language="zh"))
        items.append(Item(media="text", text=chinese(100 + n, SHUI), origin=f"shui/{n}.txt", language="zh"))
    return items
