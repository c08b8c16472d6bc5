"""The user's callbacks: which a config may name, what early stopping may monitor, and where training then ends."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import low_ids
from lightning.pytorch import callbacks as lightning

from r1.config.check.callbacks import REFUSED
from r1.core.errors import UserError
from r1.core.metrics import METRICS, VALIDATION, logged_metrics, metric_named
from r1.core.paths import CONF
from r1.core.runs import read_run
from r1.run import execute

EXTENSIONS = f"extensions=[{low_ids.__module__},usercallbacks]"
TARGET = "+callbacks.it._target_="
LIGHTNING = "lightning.pytorch.callbacks"
STOPPING = f"{TARGET}{LIGHTNING}.EarlyStopping"
ARGUMENTS = {
    "EarlyStopping": ["+callbacks.it.monitor=train/lr", "+callbacks.it.mode=max", "+callbacks.it.patience=1"],
    "Timer": ["+callbacks.it.duration='01:00:00:00'"],
    "LearningRateMonitor": ["+callbacks.it.log_momentum=true"],
    "ModelSummary": ["+callbacks.it.max_depth=-1"],
    "DeviceStatsMonitor": [],
    "RichModelSummary": [],
    "LambdaCallback": [],
    "Callback": [],
}
NEED_CODE = {"ThroughputMonitor", "SpikeDetection", "BasePredictionWriter"}  # functions, or methods, of the user's
Small = Callable[..., dict[str, Any]]


def test_every_callback_of_lightning_is_refused_or_runs(small: Small, folder: Path) -> None:
    refused = tuple(getattr(lightning, name) for name in REFUSED)
    works = {name for name in lightning.__all__ if not issubclass(getattr(lightning, name), refused)}
    assert works == {*ARGUMENTS, *NEED_CODE}
    for name in sorted(set(lightning.__all__) - works):
        with pytest.raises(UserError, match="does not work here") as caught:
            execute(small("stage=sft", f"{TARGET}{LIGHTNING}.{name}", "dry_run=true"), [])
        assert caught.value.key == "callbacks.it._target_"


@pytest.mark.parametrize("name", ["EarlyStopping", "Timer", "LearningRateMonitor", "ModelSummary"])
def test_callback_of_lightning_runs_by_its_target(small: Small, folder: Path, name: str) -> None:
    options = [f"{TARGET}{LIGHTNING}.{name}", *ARGUMENTS[name], f"output_dir={folder}", "trainer.max_steps=2"]
    execute(small("stage=sft", "stage.warmup_steps=0", "stage.schedule=constant", "val.every=1", *options), [])
    assert read_run(str(folder)).metrics[-1]["step"] == 2


@pytest.mark.parametrize(
    ("overrides", "key", "message"),
    [
        ([f"{TARGET}os.system"], "callbacks.it._target_", "may not build"),
        ([f"{TARGET}{LIGHTNING}.model_checkpoint.os.system"], "callbacks.it._target_", "may not build"),
        ([f"{TARGET}lightning.pytorch.Trainer"], "callbacks.it._target_", "may not build"),
        ([f"{TARGET}{LIGHTNING}.Nonsense"], "callbacks.it._target_", "no such object"),
        ([f"{TARGET}usercallbacks.Counting", f"extensions=[{low_ids.__module__}]"], "callbacks.it._target_", "may not"),
        ([f"{TARGET}usercallbacks.not_a_callback", EXTENSIONS], "callbacks.it._target_", "does not fit"),
        ([f"reward.terms.low_ids._target_={LIGHTNING}.Callback"], "reward.terms.low_ids._target_", "may not build"),
        ([f"{TARGET}{LIGHTNING}.Timer", "+callbacks.it.length=3"], "callbacks.it.length", "unknown key"),
        ([f"{TARGET}{LIGHTNING}.Timer", "+callbacks.it.duration='3 days'"], "callbacks.it", "not a valid duration"),
        ([f"{TARGET}{LIGHTNING}.ModelSummary", "+callbacks.it.max_depth=deep"], "callbacks.it.max_depth", "wrong"),
        (["+callbacks.it=3"], "callbacks.it", "is no callback"),
        ([STOPPING], "callbacks.it.monitor", "needs a metric"),
        ([STOPPING, "+callbacks.it.monitor=val/pas@1"], "callbacks.it.monitor", "logs no such metric"),
        ([STOPPING, "+callbacks.it.monitor=val/pass@16"], "callbacks.it.monitor", "logs no such metric"),
        ([STOPPING, "+callbacks.it.monitor=val/reward/format"], "callbacks.it.monitor", "logs no such metric"),
        ([STOPPING, "+callbacks.it.monitor=val/pass@1"], "callbacks.it.mode", "the higher value is better"),
        ([STOPPING, "+callbacks.it.monitor=train/loss", "+callbacks.it.mode=max"], "callbacks.it.mode", "lower"),
        ([STOPPING, "+callbacks.it.monitor=val/pass@1", "+callbacks.it.mode=up"], "callbacks.it.mode", "stop a run"),
        (["callbacks=early_stopping", "+callbacks.early_stopping.check_on_train_epoch_end=true"],
         "callbacks.early_stopping.check_on_train_epoch_end", "one epoch"),
        (["callbacks=early_stopping", f"{STOPPING}", "+callbacks.it.monitor=val/pass@1", "+callbacks.it.mode=max"],
         "callbacks.it", "would replace that of callbacks.early_stopping"),
    ],
)  # fmt: skip
def test_callback_that_cannot_work_is_one_error_before_the_start(
    small: Small, overrides: list[str], key: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        execute(small("stage=sft", *overrides, "dry_run=true"), [])
    assert key in str(caught.value)


def test_early_stopping_of_a_stage_without_training_is_refused(small: Small) -> None:
    with pytest.raises(UserError, match="trains nothing") as caught:
        execute(small("stage=eval", "callbacks=early_stopping", "dry_run=true"), [])
    assert caught.value.key == "callbacks.early_stopping"


@pytest.mark.parametrize("monitor", ["val/pair_accuracy", "train/kl"])  # registered, and not of this stage
def test_monitor_that_the_stage_does_not_compute_is_one_error(small: Small, folder: Path, monitor: str) -> None:
    mode = "max" if monitor.startswith("val/") else "min"
    options = [STOPPING, f"+callbacks.it.monitor={monitor}", f"+callbacks.it.mode={mode}", f"output_dir={folder}"]
    with pytest.raises(UserError, match="logs no such metric") as caught:
        execute(small("stage=sft", *options, "val.every=1"), [])
    assert caught.value.key == "callbacks.it.monitor"
    assert "val/pass@1" in caught.value.expected


def test_options_of_the_group_compose_together(config: Callable[..., dict[str, Any]]) -> None:
    cfg = config("callbacks=[early_stopping,timer]", "callbacks.early_stopping.patience=7")
    assert {name: node["_target_"].rpartition(".")[2] for name, node in cfg["callbacks"].items()} == {
        "early_stopping": "EarlyStopping",
        "timer": "Timer",
    }
    assert cfg["callbacks"]["early_stopping"]["patience"] == 7
    assert cfg["callbacks"]["early_stopping"]["monitor"] in logged_metrics(cfg)


def test_state_that_a_checkpoint_cannot_hold_is_an_error_in_the_first_step(small: Small, folder: Path) -> None:
    options = [f"{TARGET}usercallbacks.Unreadable", EXTENSIONS, f"output_dir={folder}"]
    with pytest.raises(UserError, match="the state of Unreadable cannot be restored"):
        execute(small("stage=sft", *options), [])
    assert read_run(str(folder)).manifest["status"] == "failed"


def test_early_stopping_ends_the_run_and_its_extension(
    small: Small, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A constant learning rate does not improve: step 3 has the second validation without improvement."""
    options = [STOPPING, "+callbacks.it.monitor=train/lr", "+callbacks.it.mode=max", "+callbacks.it.patience=2"]
    options += ["stage.schedule=constant", "stage.warmup_steps=0", "val.every=1", f"output_dir={folder}"]
    execute(small("stage=sft", *options), [])
    run = read_run(str(folder))
    assert run.metrics[-1]["step"] == 3
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step_000003"]
    assert "a callback has ended training at step 3" in " ".join(capfd.readouterr().err.split())
    execute(small("stage=sft", *options, "trainer.max_steps=9", "resume=auto"), [])
    assert read_run(str(folder)).metrics == run.metrics
    assert "a callback has ended training at step 3" in " ".join(capfd.readouterr().err.split())


def test_profiler_writes_into_the_record(small: Small, folder: Path) -> None:
    execute(small("stage=sft", "trainer.max_steps=1", "trainer.profiler=simple", f"output_dir={folder}"), [])
    assert "run_training_epoch" in (folder / "fit-profile.txt").read_text()


def test_metrics_that_the_page_lists_are_registered_and_all_validation_metrics_are_listed() -> None:
    page = (CONF.parent / "docs" / "resume.md").read_text().rpartition("### What early stopping can monitor")[2]
    listed = [name.replace("K", "8") for name in re.findall(r"`((?:val|train|reward)/[\w@/]+)`", page)]
    assert [name for name in listed if metric_named(name) not in METRICS] == []
    of_page = {metric_named(name) for name in listed}
    assert [m.name for m in VALIDATION if m not in of_page and not m.data_dependent] == ["val/reward/accuracy"]
