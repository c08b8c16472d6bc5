"""The point that a sweep's command would have been without the sweep: conf's own values of its parameters."""

from __future__ import annotations

from collections.abc import Sequence

from r1.errors import UserError
from r1.provenance import flat
from r1.report.sweep.trials import Values, plain
from r1.runs import Run


def default(run: Run, names: Sequence[str]) -> Values | None:
    """The values of ``names`` in the config that a run's command composes without them.

    None where there is no telling: a parameter that has no value of its own, a pipeline's steps, a record whose
    command does not compose here.
    """
    from hydra.core.hydra_config import HydraConfig

    from r1.compose import points
    from r1.overrides import read

    kept = [text for text in run.manifest.get("overrides") or [] if _is_kept(text, names)]
    try:
        config = points(*read(kept))[0].config
    except UserError:
        return None
    held = {**HydraConfig.get().runtime.choices, **flat(config)}
    return {name: plain(held[name]) for name in names} if all(name in held for name in names) else None


def _is_kept(text: str, names: Sequence[str]) -> bool:
    """Not the sweep's own; and nothing that would read the environment or other folders for a record."""
    key = text.lstrip("+~").partition("=")[0]
    return key not in (*names, "output_dir") and not key.startswith(("hydra", "-")) and "${" not in text
