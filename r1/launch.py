"""From a command line to its runs: one, the points of a sweep, or a look at the config.

Nothing is started before every run that is asked for has passed its checks.
"""

from __future__ import annotations

import os
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from r1 import budget
from r1.compose import CONF, Point, points
from r1.errors import Interrupted, UserError, UserErrors
from r1.overrides import read
from r1.pipeline.asked import peel, pipelines
from r1.secrets import redact

Execute = Callable[[dict[str, Any], list[str]], Any]


def launch(argv: list[str], execute: Execute) -> int:
    """The exit code of one command line: of a sweep, the highest of its runs.

    Raises:
        UserError: what is wrong with the command line, or with any run that it asks for.
    """
    argv, of_step = peel(argv)
    args, overrides = read(argv)
    if asked_pipelines := [] if args.help or args.info else pipelines(args, overrides, of_step):
        from r1.pipeline.run import print_steps, run

        return print_steps(asked_pipelines) if args.cfg else run(args, asked_pipelines)
    if args.cfg or args.help or args.hydra_help or args.info or args.shell_completion:
        return _show(args, overrides)
    asked = points(args, overrides)
    _check(asked)
    if all(point.config["dry_run"] for point in asked):
        for point in asked:
            execute(point.config, point.overrides)
        return 0
    codes: list[int] = []
    _hydra(lambda cfg: codes.append(_job(cfg, execute)))
    return max(codes, default=0)


def _check(asked: Sequence[Point]) -> None:
    """Raise the errors of the first point that cannot run, saying which one it is."""
    from r1.check.config import check_config

    folders = [point.config["output_dir"] for point in asked if point.config.get("output_dir") is not None]
    if len(set(folders)) < len(folders):
        do = "output_dir='FOLDER/${hydra:job.num}'"
        raise UserError("every run of a sweep needs a folder of its own", where="output_dir", given=folders[0], do=do)
    for number, point in enumerate(asked, 1):
        try:
            check_config(point.config, point.overrides)
        except UserError as error:
            if len(asked) == 1:
                raise
            varied = [o for o in point.overrides if any(o not in other.overrides for other in asked)]
            what = f"point {number} of {len(asked)} cannot run, so none was started: {' '.join(varied)}"
            raise UserErrors([UserError(what, code=error.code), error]) from None
    budget.check_points([point.config for point in asked])


def _show(args: Namespace, overrides: Sequence[Override]) -> int:
    """--cfg, --help, --info: Hydra's own screens, and ours where they cannot be shown."""
    try:
        _hydra(lambda _: None)
    except Exception as error:  # Hydra raises many kinds
        points(args, overrides)
        raise UserError(str(error), where="command line") from None
    return 0


def _hydra(job: Callable[[DictConfig], None]) -> None:
    import hydra

    os.environ["HYDRA_FULL_ERROR"] = "1"  # hand errors over instead of printing them
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()


def _job(cfg: DictConfig, execute: Execute) -> int:
    """One run, from Hydra's launcher: its exit code. Only a signal keeps the other runs of a sweep from theirs."""
    container = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(container, dict)
    overrides = list(HydraConfig.get().overrides.task)
    try:
        folder = execute({str(key): value for key, value in container.items()}, overrides)
    except UserError as error:
        print(f"r1: {error}", file=sys.stderr)
        return error.code
    except Interrupted as stop:
        sys.exit(stop.code)
    except Exception:  # a bug; Hydra would add a line with all overrides
        print(redact(traceback.format_exc()), file=sys.stderr)
        return 1
    if folder:
        print(folder)
    return 0
