"""Settings that do nothing beside others: said once, for nothing that a person asked for is dropped in silence."""

from __future__ import annotations

from intaglio.core.config import StepConfig
from intaglio.core.contracts import Context
from intaglio.core.i18n import t


def warn_of_ignored(config: StepConfig, *names: str, setting: str, ctx: Context) -> None:
    """Name the keys among ``names`` that are not as they are when left out; ``setting`` is what makes them idle."""
    fields = type(config).model_fields
    changed = [name for name in names if getattr(config, name) != fields[name].default]
    if changed:
        ctx.warn(t("with {setting} these keys do nothing: {keys}", setting=setting, keys=", ".join(changed)))
