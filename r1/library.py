"""r1 in Python: ``r1.compose`` a config, ``r1.run`` it, ``r1.load`` a record as data frames."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1.core import jsonl
from r1.core.errors import UserError
from r1.core.outputs import SAMPLES
from r1.core.runs import RunRecord, read_run, refuse_pipeline

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from pandas import DataFrame  # type: ignore[import-untyped]

NO_STEPS = "a pipeline or a grid is a command: r1 run ..."


class LoadedRun:
    """A record as it was when it was loaded.

    Attributes:
        dir: its folder.
        manifest: status, command, versions, parents and the metrics at the start and the end, each with its interval.
        config: the run's whole config.
    """

    def __init__(self, record: RunRecord) -> None:
        self.dir, self.manifest, self.config, self._rows = record.dir, record.manifest, record.config, record.metrics

    def __repr__(self) -> str:
        return f"<{self.manifest['status']} run in {self.dir}>"

    @cached_property
    def metrics(self) -> DataFrame:
        """A row per logged step, a column per metric; NaN where a step has no such metric."""
        from pandas import DataFrame

        return DataFrame(self._rows)

    @cached_property
    def samples(self) -> DataFrame:
        """A row per recorded completion: prompt, answer, completion, verdict, reward."""
        from pandas import DataFrame

        file = self.dir / SAMPLES
        return DataFrame(jsonl.read_rows(file) if file.is_file() else [])


def compose(*overrides: str, config_dir: str | Path | None = None) -> DictConfig:
    """A config as ``r1 run OVERRIDES`` composes it, with all references resolved.

    Args:
        overrides: such as ``"stage=sft"`` or ``"val.every=10"``.
        config_dir: a folder with options of your own.

    Raises:
        UserError: the error that the command would print.
    """
    from omegaconf import OmegaConf

    from r1.config.compose import compose_points
    from r1.config.overrides import drop_repeated, parse_command_line

    if flags := [text for text in overrides if text.startswith("-")]:
        raise UserError("only overrides compose", key="overrides", value=flags[0], expected="KEY=VALUE", hint=NO_STEPS)
    folder = [] if config_dir is None else ["--config-dir", str(config_dir)]
    args, parsed = parse_command_line([*folder, *drop_repeated(list(overrides))])
    return OmegaConf.create(compose_points(args, parsed)[0].config)


def run(cfg: DictConfig | Mapping[str, Any]) -> LoadedRun:
    """Check a config, run it in this process, and load its record; a dry run is an error.

    Args:
        cfg: from ``compose``, or from Hydra's own, changed as you like.

    Raises:
        UserError: all errors of the config, before any weights are loaded; or the run's.
    """
    from r1.core.storage import storage_errors
    from r1.run import execute

    config = as_config(cfg)
    if config.get("dry_run"):
        raise UserError(
            "a dry run has no record", key="dry_run", value=True, hint="r1 run dry_run=true prints the plan"
        )
    with storage_errors():
        folder = execute(config, [], command=shlex.join(["python", *sys.argv]))
    assert folder is not None
    return load(folder)


def as_config(cfg: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """The config of one run as plain values, with all references resolved.

    Raises:
        UserError: it is no mapping, or a pipeline's.
    """
    from omegaconf import DictConfig, OmegaConf

    if not isinstance(cfg, (DictConfig, Mapping)):
        raise UserError("this is no config", key="cfg", value=type(cfg).__name__, expected="what r1.compose returns")
    if steps := cfg.get("steps"):
        raise UserError("r1.run runs one step", key="steps", value=sorted(steps), hint=NO_STEPS)
    resolved: Any = OmegaConf.to_container(OmegaConf.create(dict(cfg)), resolve=True)
    resolved.pop("hydra", None)
    return dict(resolved)


def load(record: str | Path) -> LoadedRun:
    """The record in a folder. Raises: UserError: it is none, is damaged, or is a pipeline's."""
    run_record = read_run(str(record))
    refuse_pipeline(run_record.dir, run_record.config)
    return LoadedRun(run_record)
