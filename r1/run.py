"""python -m r1.run: compose -> check -> build -> fit -> record. This page is what everything hangs on."""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from omegaconf import DictConfig

Config = dict[str, Any]


def execute(cfg: Config, overrides: list[str]) -> Path | None:
    """Run one composed config; returns the record's folder (None for a dry run).

    Raises:
        UserError: before anything heavy is loaded, with everything that is wrong.
    """
    from r1 import check, fit
    from r1.build import build

    check.check_schema(cfg, overrides)
    check.check_extras(cfg)
    experiment = build(cfg)
    check.check_parts(cfg, experiment)
    fit.announce(cfg, experiment)
    if cfg["dry_run"]:
        return None
    return fit.fit(cfg, experiment, overrides, command())


def command() -> str:
    """The command line as the user would type it again."""
    return shlex.join(["python", "-m", "r1.run", *sys.argv[1:]])


def _app(cfg: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from r1.errors import Interrupted, UserError

    container = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(container, dict)
    overrides = list(HydraConfig.get().overrides.task)
    try:
        folder = execute({str(k): v for k, v in container.items()}, overrides)
    except UserError as error:
        sys.exit(fail(error))
    except Interrupted as stop:
        sys.exit(stop.code)
    if folder:
        print(folder)


def main() -> None:
    """Compose with Hydra, and turn every user's mistake into one screen and an exit code."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    os.environ["HYDRA_FULL_ERROR"] = "1"  # hand errors over instead of printing them
    try:
        hydra.main(version_base="1.3", config_path="../conf", config_name="config")(_app)()
    except (HydraException, OmegaConfBaseException) as error:
        from r1.compose import explain

        sys.exit(fail(explain(error, sys.argv[1:])))


def fail(error: Any) -> int:
    print(f"r1: {error}", file=sys.stderr)
    return int(error.code)


if __name__ == "__main__":
    main()
