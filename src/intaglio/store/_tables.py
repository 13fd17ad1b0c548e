"""The ledger's tables as SQLAlchemy sees them; ``migrations`` makes them, and a test compares the two."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Integer, MetaData, Table, Text

metadata = MetaData()

steps = Table(
    "steps",
    metadata,
    Column("id", BigInteger, primary_key=True),
    *(Column(name, Text, nullable=False) for name in ("key", "name", "stage", "use", "state", "config", "code")),
    *(Column(name, Text, nullable=False) for name in ("inputs", "outputs", "counts", "metrics", "environment")),
    *(Column(name, Text, nullable=False) for name in ("device", "started", "owner")),
    *(Column(name, Text) for name in ("ended", "error", "process")),
    Column("round", BigInteger, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("blocked", Integer, nullable=False),
    Column("threads", Integer, nullable=False),
    Column("seconds", Float),
    Column("peak_bytes", BigInteger),
    Column("lease_until", Float),
)
artifacts = Table(
    "artifacts",
    metadata,
    Column("id", Text, primary_key=True),
    *(Column(name, Text, nullable=False) for name in ("kind", "media", "meta", "created")),
    Column("bytes", BigInteger, nullable=False),
)
outputs = Table(
    "outputs",
    metadata,
    Column("step_id", BigInteger, primary_key=True),
    Column("role", Text, primary_key=True),
    Column("artifact_id", Text, nullable=False),
)
inputs = Table(
    "inputs",
    metadata,
    Column("step_id", BigInteger, primary_key=True),
    Column("position", Integer, primary_key=True),
    *(Column(name, Text, nullable=False) for name in ("role", "name", "key")),
)
published = Table(
    "published",
    metadata,
    Column("step_id", BigInteger, primary_key=True),
    Column("path", Text, primary_key=True),
    *(Column(name, Text, nullable=False) for name in ("sha256", "unsigned_sha256", "sidecar_sha256", "produce_id")),
    *(Column(name, Text, nullable=False) for name in ("pieces", "mime", "title", "created")),
)
blocks = Table(
    "blocks",
    metadata,
    Column("item", Text, primary_key=True),
    *(Column(name, Text, nullable=False) for name in ("origin", "reason", "steps", "created")),
)
rounds = Table(
    "rounds",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    *(Column(name, Text, nullable=False) for name in ("pins", "created")),
)
settings = Table(
    "settings",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
