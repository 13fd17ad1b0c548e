"""What a whole publication was made from, gathered while its pieces pass by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from intaglio.publish._pieces import Piece


class Colophon:
    """Models, collections and licenses of all pieces, each once, in the order they were met."""

    def __init__(self) -> None:
        self.models: dict[str, Mapping[str, Any]] = {}
        self.collections: dict[str, Mapping[str, Any]] = {}
        self.steps: dict[str, Mapping[str, Any]] = {}
        self.licenses: Counter[str] = Counter()
        self.media: Counter[str] = Counter()

    def add(self, piece: Piece) -> None:
        """Take in one piece."""
        for model in piece.models:
            self.models.setdefault(str(model.get("checkpoint") or model.get("step")), model)
        for collection in piece.collections:
            self.collections.setdefault(str(collection.get("id") or collection.get("step")), collection)
        for step in piece.steps:
            self.steps.setdefault(str(step.get("key") or step.get("name")), step)
        self.licenses[piece.license] += 1
        self.media[piece.media] += 1
