"""All use of Hydra's private API: what another version of Hydra may move or rename is in this module only.

r1 needs more than ``hydra.main`` offers: it composes every point of a grid before it starts one, and it explains errors
of composition itself.
"""

from __future__ import annotations

import warnings
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_automatic_config_search_path, get_args_parser
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, QuotedString
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig

from r1.core.errors import UserError
from r1.core.paths import CONF, EXAMPLE_CONFS

__all__ = ["ChoiceSweep", "HydraConfig", "HydraException", "HydraLoader", "JobReturn", "Override", "QuotedString"]

CONFIG_NAME = "config"
VERSION_BASE = "1.3"  # a run stays in the working directory


class ExampleConfigs(SearchPathPlugin):
    """The config folders of examples/, after r1's own."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in EXAMPLE_CONFS:
            search_path.append(f"examples/{folder.parent.name}", f"file://{folder}")


Plugins.instance().register(ExampleConfigs)


class HydraLoader:
    """Composes configs from conf/ and the other folders on Hydra's search path."""

    def __init__(self, hydra: Hydra) -> None:
        self._hydra = hydra

    def compose(self, overrides: list[str]) -> DictConfig:
        """The composed config, with Hydra's own under ``hydra``; interpolations are not resolved yet.

        Raises:
            UserError: a folder of the search path does not exist.
            Exception: Hydra, OmegaConf and YAML raise many kinds.
        """
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            cfg = self._hydra.compose_config(CONFIG_NAME, overrides, RunMode.RUN, from_shell=False)
        if caught:  # Hydra only warns
            raise UserError(str(caught[0].message), key="hydra.searchpath", hint="file://FOLDER, with its whole path")
        return cfg

    def files(self, overrides: list[str]) -> list[tuple[str, str]]:
        """(path below a config folder without its suffix, package) of the files that a config is merged from, in order.

        Raises:
            Exception: Hydra raises many kinds.
        """
        merged = self._hydra.config_loader.compute_defaults_list(CONFIG_NAME, overrides, RunMode.RUN).defaults
        return [(entry.config_path, entry.package) for entry in merged if not entry.config_path.startswith("hydra/")]

    def group_options(self, group: str) -> list[str]:
        """The options of a config group, wherever they come from; none if there is no such group."""
        options: list[str] = self._hydra.config_loader.get_group_options(group)
        return options

    def subgroups(self, group: str) -> list[str]:
        """The folders in a config group."""
        folders: list[str] = self._hydra.config_loader.get_group_options(group, ObjectType.GROUP)
        return folders

    def sweep_choices(self, override: Override) -> list[str]:
        """The overrides that a sweep such as ``KEY=A,B`` or ``KEY=range(A,B)`` stands for.

        Raises:
            HydraException: it is no grid.
        """
        override.config_loader = self._hydra.config_loader
        return [text for (text,) in BasicSweeper.split_arguments([override], None)[0]]

    def multirun(self, job: Callable[[DictConfig], Any], overrides: list[str]) -> Sequence[Sequence[JobReturn]]:
        """Run a sweep with Hydra's sweeper and launcher: the jobs' results, batch by batch."""
        return self._hydra.multirun(CONFIG_NAME, job, overrides) or ()


@contextmanager
def open_loader(config_dir: Path | None = None) -> Iterator[HydraLoader]:
    """Hydra as ``hydra.main`` sets it up, with conf/ and an absolute ``config_dir`` in front of it."""
    path = create_automatic_config_search_path(None, None, str(CONF))
    if config_dir is not None:
        path.prepend("command-line", f"file://{config_dir}", SearchPathQuery("schema", None))
    GlobalHydra.instance().clear()
    version.setbase(VERSION_BASE)
    try:
        yield HydraLoader(Hydra.create_main_hydra2("run", path))
    finally:
        GlobalHydra.instance().clear()


def set_hydra_config(cfg: DictConfig) -> None:
    """Make ``cfg`` the config that ``${hydra:job.num}`` and ``HydraConfig.get()`` read."""
    HydraConfig.instance().cfg = cfg  # type: ignore[assignment]


def argument_parser() -> ArgumentParser:
    """Hydra's parser of flags; what is left are overrides."""
    parser: ArgumentParser = get_args_parser()
    return parser


def parse_override(text: str) -> Override:
    """One override in Hydra's grammar.

    Raises:
        Exception: the grammar raises many kinds.
    """
    override: Override = OverridesParser.create().parse_rule(text, "override")
    return override


def plain_choices(override: Override) -> list[Any]:
    """The values of an override as plain containers: those of a choice sweep, else one; none of another sweep."""
    value = override.value()
    if isinstance(value, ChoiceSweep):
        return [Override._convert_value(choice) for choice in value.list]
    return [] if override.is_sweep_override() or override.is_delete() else [value]
