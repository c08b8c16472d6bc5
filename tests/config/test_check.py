"""Check before anything heavy: what a user can get wrong is one screen, an exit code, and nothing on the disk.

Every case goes through the command line's own ``main()``; a model that is loaded, or a file that is written, fails it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from r1 import run
from r1.config.check.rules import check_rules
from r1.config.check.sources import check_hub_datasets
from r1.core.errors import CONFIG, DATA, LOCKED, MODEL, REWARD, STORAGE, Interrupted, UserError
from r1.core.paths import ASSETS, CONF
from r1.experiment.launch import launch
from r1.model.loading import Model

MY_REWARDS = '''
from os import system

import numpy

def trl(prompts, completions, **kwargs):
    """A reward as TRL takes it."""
    return [float(len(c)) for c in completions]

def array(completions, **kwargs):
    return numpy.array([len(c) for c in completions], numpy.float32)

def knobs(completions, *, strength: float, **kwargs):
    return [strength for _ in completions]

def by_level(completions, level, **kwargs):
    return [float(one) for one in level]

def raises(completions, **kwargs):
    raise RuntimeError("boom")

def nothing(completions, **kwargs):
    return None

def data(*, instruction, terms, weight, max_prompt_length):
    return 1 / 0

class Teacher:
    """Has no method `answer`."""
'''
EXPERIMENTS = {
    "mine": "stage: {group_size: many}",
    "broken": "stage: {lr: [",
    "evil": "hydra:\n  callbacks:\n    x: {_target_: os.system}",
    "missing": "defaults:\n  - override /data: nope",
}
MINE = "extensions=[my_rewards] '+reward.terms.mine={_target_:my_rewards.%s,weight:1%s}'"
ARITHMETIC = (
    "template verifier overlong reader keep_questions num_train num_val min_terms max_terms max_term language seed"
)
BARE_DATA = " ".join(f"~data.{key}" for key in ARITHMETIC.split())
BASE = ("model=scratch", "dry_run=true")


@dataclass
class Result:
    code: int
    out: str
    err: str


Cli = Callable[[str], Result]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file, rows, tokenizers, a user's rewards and configs, and a run."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "file").write_text("")
    (folder / "empty").mkdir()
    (folder / "held").mkdir()
    (folder / "held" / "manifest.json").write_text('{"schema": 1, "status": "finished", "overrides": []}')
    (folder / "my_rewards.py").write_text(MY_REWARDS)
    (folder / "needs_more.py").write_text("import no_such_dependency\n")
    rows = [{"prompt": f"{i}+1=?", "answer": str(i + 1)} for i in range(40)]
    long = {"prompt": "x " * 2000, "answer": "1"}
    kinds = {
        "rows": rows,
        "gap": [row | ({"level": 3} if i != 7 else {}) for i, row in enumerate(rows)],
        "long": [*rows, long],
        "long_answer": [{**row, "completion": "x " * 2000} for row in rows],
        "taken": [{**row, "verifier": 1} for row in rows],
        "rendered": [{**row, "rendered": "IGNORE"} for row in rows],
        "half": [*rows, {"prompt": "\ud800?", "answer": "1"}],
        "pairs": [{**row, "chosen": [{"role": "user", "content": "2"}], "rejected": "3"} for row in rows],
        "rated": [{**row, "pass_rate": "0.5"} for row in rows],
        "none": [],
        "hard": [*rows, *({"prompt": f"{i} hard", "answer": rf"\sum_{{n=1}}^{i} n"} for i in range(10))],
        "unread": [{**row, "answer": "17 42"} for row in rows],
    }
    for name, lines in kinds.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "bad.jsonl").write_text('{"prompt": "a", "answer": "b"}\n{"prompt": \n')
    for name, opened in (("think", "Assistant:<think>\n"), ("no_template", None)):
        shutil.copytree(ASSETS / "tiny", folder / name, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
        template = folder / name / "chat_template.jinja"
        if opened is None:
            template.unlink()
        else:
            template.write_text(template.read_text().replace("%}Assistant:{% endif", f"%}}{opened}{{% endif"))
    (folder / "cfg" / "experiment").mkdir(parents=True)
    for name, text in EXPERIMENTS.items():
        (folder / "cfg" / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\n{text}\n")
    return folder


@pytest.fixture
def cli(world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """``cli("stage.lr=abc")``: that command line, in ``world``, as a dry run; no weights, files, network or GPU."""

    def no_weights(*_: object) -> None:
        raise AssertionError("weights were loaded")

    def no_network(*_: object, **__: object) -> None:
        raise ConnectionError("no network here")

    monkeypatch.chdir(world)
    monkeypatch.syspath_prepend(world)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(Model, "load", no_weights)
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", no_network)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    for name in ("NOT_SET_KEY", "MASTER_ADDR", "SLURM_JOB_ID", "LSB_JOBID"):
        monkeypatch.delenv(name, raising=False)

    def call(command: str) -> Result:
        words = shlex.split(command)
        keys = [word.partition("=")[0].lstrip("+~") for word in words]
        words += [word for word in BASE if word.partition("=")[0] not in keys]
        monkeypatch.setattr(sys, "argv", ["r1.run", *words])
        before = listing(world)
        code: object = 0
        try:
            run.main()
        except SystemExit as end:
            code = end.code
        assert listing(world) == before
        assert isinstance(code, int)
        return Result(code, *capsys.readouterr())

    return call


def listing(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def assert_one_screen(result: Result) -> None:
    assert result.out == ""
    assert result.err.startswith("r1: ")
    assert "Traceback" not in result.err
    assert "Error executing job" not in result.err
    assert "Warning" not in result.err
    lines = result.err.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 420


# command, words that the message must hold; the exit code is the heading's
CASES: dict[int, list[tuple[str, list[str]]]] = {
    CONFIG: [
        # unknown groups, options and keys
        ("rewrd=math", ["unknown key `rewrd`", "did you mean `reward`"]),
        ("+rewrd=math", ["unknown key `rewrd`", "'math'", "did you mean `reward`"]),
        ("strategi=ddp", ["unknown key `strategi`", "did you mean `strategy`"]),
        ("reward=mat", ["no option `mat`", "math, r1, r1_zero", "did you mean `math`"]),
        ("stage=GRPO", ["no option `GRPO`", "did you mean `grpo`"]),
        ("stage/loss=dap", ["no option `dap`", "cispo, dapo, dr_grpo, grpo, gspo", "did you mean `dapo`"]),
        ("data/template=foo", ["no option `foo`", "chat, few_shot, r1_zero"]),
        ("strategy=foo", ["no option `foo`", "ddp, deepspeed, fsdp, single"]),
        ("experiment=tiny_bas", ["no option `tiny_bas`", "did you mean `tiny_base`"]),
        ("stage=_base", ["no option `_base`"]),
        ("stage.group_siz=8", ["stage.group_siz", "value    8", "did you mean `stage.group_size`"]),
        ("+stage.group_siz=8", ["stage.group_siz", "value    8", "did you mean `stage.group_size`"]),
        ("++stage.group_siz=8", ["stage.group_siz", "did you mean `stage.group_size`"]),
        ("+reward.terms.format.strictt=1", ["reward.terms.format.strictt", "graded, weight"]),
        ("+reward.terms.fromat.weight=1", ["no reward term", "did you mean `reward.terms.format`"]),
        ("reward.terms.language.weight=1", ["+reward/terms@reward.terms.language=language"]),
        ("+reward/terms=length", ["a reward term needs a name", "+reward/terms@reward.terms.NAME=OPTION"]),
        ("+reward.foo=1", ["unknown key `reward.foo`", "reward.terms.foo"]),
        ("logger=wandb +logger.foo=1", ["unknown key `logger.foo`", "entity, finish_timeout, group, log_model, mode"]),
        ("+trainer.foo=1", ["unknown key `trainer.foo`", "max_steps"]),
        ("+foo=1", ["unknown key `foo`"]),
        ("+foo.bar.baz=1", ["unknown key `foo`", "{'bar': {'baz': 1}}"]),
        ("+data@extra=countdown", ["unknown key `extra`"]),
        ("lr=1e-4", ["unknown key `lr`", "did you mean `stage.lr`"]),
        ("+trainer.lr=1e-4", ["unknown key `trainer.lr`", "did you mean `stage.lr`"]),
        ("stage.num_generations=8", ["did you mean `stage.group_size`"]),
        ("stage=sft stage.group_size=4", ["unknown key `stage.group_size`", "grpo reads it"]),
        ("stage=eval stage.lr=1", ["unknown key `stage.lr`", "no key at all"]),
        ("stage/advantage=center +stage.advantage.epsilon=1", ["unknown key `stage.advantage.epsilon`"]),
        ("data.template.text=x", ["unknown key `data.template.text`", "data/template=r1_zero reads it"]),
        ("data.path=rows.jsonl", ["unknown key `data.path`", "jsonl"]),
        ("experiment=tiny_base stage=grpo", ["stage.loss_on_prompt", "experiment=tiny_base sets it"]),
        ("stage.group_siz=8 rewrd=math data.foo=3", ["stage.group_siz", "rewrd", "data.foo"]),
        ("optimizer=muon", ["did you mean `stage/optimizer=muon`?"]),
        ("stage.optim=sgd", ["did you mean `stage/optimizer=sgd`?"]),
        ("lora=default", ["did you mean `+model/lora=default`?"]),
        ("max_steps=10", ["did you mean `trainer.max_steps`?"]),
        ("stage.epochs=3", ["did you mean `trainer.max_epochs`?"]),
        ("stage=sft stage.num_train_epochs=2", ["did you mean `trainer.max_epochs`?"]),
        ("reward.weight=2", ["did you mean `reward.terms.accuracy.weight`?"]),
        ("data.path=foo", ["data=dataset or "]),
        ("experiment=dapo", ["did you mean `papers/dapo`?"]),
        ("model=Qwen/Qwen2.5-0.5B", ["hint     model=hub model.path=Qwen/Qwen2.5-0.5B"]),
        ("data=gsm8k.jsonl", ["hint     data=dataset data.path=gsm8k.jsonl"]),
        ("stage=ppo", ["r1 options stage: what each of them is"]),
        # retired names
        ("stage=reject", ["no option `reject`", "did you mean `stage=rejection_sampling`"]),
        ("rollout.context=512", ["unknown key `rollout.context`", "did you mean `rollout.max_model_len`"]),
        ("+rollout.gpu_memory=0.5", ["unknown key", "did you mean `rollout.gpu_memory_utilization`"]),
        ("trainer._target_=r1.trainer.trainer", ["no such object", "did you mean `r1.train.trainer.trainer`"]),
        # wrong types and ranges
        ("stage.lr=abc", ["wrong value for `stage.lr`", "'abc'", "number > 0"]),
        ("stage.lr=1e-4x", ["'1e-4x'", "number > 0"]),
        ("stage.lr=true", ["value    true", "number > 0"]),
        ("stage.lr=[1e-4]", ["[0.0001]", "number > 0"]),
        ("stage.lr=nan", ["value    nan", "finite number > 0"]),
        ("stage.lr=inf", ["value    inf", "finite number > 0"]),
        ("stage.kl_coef=nan", ["value    nan", "finite number >= 0"]),
        ("reward.terms.format.weight=nan", ["value    nan", "finite number or null"]),
        ("stage.lr=0", ["value    0", "number > 0"]),
        ("stage.optimizer.beta1=1.0", ["number >= 0 and < 1"]),
        ("stage.group_size=1.5", ["value    1.5", "whole number >= 1"]),
        ("stage.group_size=8.0", ["value    8.0", "hint     stage.group_size=8"]),
        ("stage.group_size=\"'8'\"", ["value    '8'", "stage.group_size=8"]),
        ("stage.group_size=true", ["value    true", "whole number >= 1"]),
        ("stage.group_size=0", ["value    0", "whole number >= 1"]),
        ("seed=-1", ["value    -1", "whole number >= 0"]),
        ("seed=null", ["value    null", "whole number >= 0"]),
        ("trainer.max_steps=01", ["value    '01'", "trainer.max_steps=1"]),
        ("stage.clip_low=", ["value    ''", "number > 0"]),
        ("stage.schedule=cosin", ["one of: constant, linear, cosine, wsd", "did you mean `cosine`"]),
        ("trainer.precision=bf16", ["one of: 32-true", "did you mean `bf16-"]),
        ("trainer.accelerator=tpu", ["one of: auto, cpu, gpu, cuda, mps"]),
        ("trainer.strategy=dpp", ["an option of this group", "strategy=dpp"]),
        ("reward.terms.format.graded=1", ["value    1", "true or false"]),
        ("dry_run=yes", ["value    'yes'", "true or false"]),
        ("resume=maybe", ["value    'maybe'", "auto or null"]),
        ("stage.max_grad_norm=None", ["value    'None'", "hint     stage.max_grad_norm=null"]),
        ("name=5", ["value    5", "name=\"'5'\""]),
        ("val.ks=8", ["value    8", "val.ks=[8]"]),
        ("extensions=mine", ["value    'mine'", "extensions=[mine]"]),
        ("++stage.lr=abc stage.group_size=x seed=-5", ["`stage.lr`", "`stage.group_size`", "`seed`"]),
        # keys that are gone, nodes that became values
        ("~stage.lr", ["`stage.lr` is missing", "leave out `~stage.lr`"]),
        ("~stage", ["`stage` is missing"]),
        ("~stage/loss", ["`stage.loss` is missing"]),
        ("~seed", ["`seed` is missing"]),
        ("~trainer", ["`trainer` is missing"]),
        ("~teacher", ["`teacher` is missing"]),
        ("~data.verifier", ["`data.verifier` is missing"]),
        ("~reward.terms", ["there is no reward term"]),
        ("~stage.foo", ["unknown key `stage.foo`"]),
        ("reward.terms={}", ["an empty mapping changes nothing"]),
        ("stage=", ["takes the name of one option", "distill, distill_direct, distill_logits"]),
        ("stage=null", ["value    null", "distill, distill_direct, distill_logits"]),
        ("stage=[grpo,sft]", ["takes the name of one option", "-m stage=grpo,sft for one run with each"]),
        ("stage=grpo,sft", ["several values", "-m stage=grpo,sft for one run with each; a pipeline"]),
        ("data={path:x}", ["set its keys one by one: data.KEY=VALUE"]),
        ("data.template=5", ["wrong value for `data.template`", "data/template=NAME"]),
        ("data.template=chat", ["data/template=chat"]),
        ("reward.terms.format=3", ["`reward.terms.format` is no reward term", "value    3"]),
        ("val=5", ["`val` must stay a mapping", "val.KEY=VALUE"]),
        ("model.lora=5", ["wrong value for `model.lora`", "model/lora=NAME"]),
        ("model.lora.r=5", ["`model.lora` is null", "+model/lora=NAME"]),
        ("model/lora=default", ["add it: +model/lora=default"]),
        ("stage.lr.foo=1", ["`stage.lr` is a value and has no keys"]),
        ("data=dataset", ["`data.path` has no value yet", "data.path=..."]),
        # objects that a config may not build
        ("reward.terms.accuracy._target_=os.system", ["may not build", "'os.system'", "objects of r1"]),
        ("reward.terms.accuracy._target_=builtins.open", ["may not build", "'builtins.open'"]),
        ("reward.terms.accuracy._target_=r1.core.secrets.re.escape", ["may not build", "belongs to re"]),
        ("reward.terms.accuracy._target_=r1.no.such", ["no such object", "No module named 'r1.no'"]),
        ("reward.terms.accuracy._target_=", ["a target is a dotted path"]),
        ("+reward.terms.x._target_=subprocess.run", ["may not build", "'subprocess.run'"]),
        ("+model.config.x._target_=os.system", ["no object is built here", "model.config.x._target_"]),
        ("+model.config._target_=r1.run.main", ["does not fit `model.config`"]),
        ("+model.config.x=[{_target_:os.system}]", ["no object is built here", "model.config.x[0]._target_"]),
        ("val.ks=[{_target_:os.system}]", ["no object is built here"]),
        ("+stage._args_=[1]", ["unknown key `stage._args_`"]),
        ("+stage._recursive_=false", ["unknown key `stage._recursive_`"]),
        ("+stage._convert_=all", ["unknown key `stage._convert_`"]),
        ("+model.config._convert_=all", ["model.config._convert_"]),
        ("+stage._partial_=true", ["does not fit `stage`"]),
        ("reward.terms.format._partial_=false", ["does not fit `reward.terms.format`"]),
        ("data.verifier._partial_=false", ["does not fit `data.verifier`"]),
        ("stage._target_=r1.data.arithmetic.arithmetic", ["does not fit `stage`", "an object of class Stage"]),
        ("stage._target_=r1.stage.base.Stage", ["does not fit `stage`"]),
        (
            "rollout._target_=r1.stage.loss.dapo.Dapo",
            ["does not fit `rollout`", "an object of class Engine"],
        ),
        ("stage.advantage._target_=r1.data.verifier.exact.exact", ["does not fit `stage.advantage`"]),
        ("trainer._target_=r1.logger.csv.Csv", ["does not fit `trainer`"]),
        ("reward.terms.accuracy._target_=r1.data.completion.parse", ["does not fit `reward.terms.accuracy`"]),
        (MINE % ("system", ""), ["may not build", "belongs to posix"]),
        (MINE % ("nosuch", ""), ["no such object", "my_rewards.nosuch"]),
        (MINE % ("trl", ",foo:1"), ["unknown key `reward.terms.mine.foo`"]),
        (MINE % ("trl", ",prompts:1"), ["unknown key `reward.terms.mine.prompts`"]),
        (MINE % ("knobs", ""), ["`reward.terms.mine.strength` is missing"]),
        (MINE % ("knobs", ",strength:abc"), ["wrong value for `reward.terms.mine.strength`"]),
        ("'+reward.terms.x={_target_:my_rewards.trl,weight:1}'", ["extensions=[my_rewards]"]),
        ("extensions=[my_rewards] '+reward.terms.x={_target_:my_rewards.trl}'", ["reward.terms.x.weight"]),
        (
            "extensions=[my_rewards] stage=distill teacher._target_=my_rewards.Teacher",
            ["methods of Teacher: identity, answer"],
        ),
        (
            f"extensions=[my_rewards] data._target_=my_rewards.data {BARE_DATA}",
            ["my_rewards.data raised ZeroDivisionError"],
        ),
        ("extensions=[needs_more] '+reward.terms.x={_target_:needs_more.f,weight:1}'", ["no_such_dependency"]),
        ("extensions=[nonexistent]", ["no Python package `nonexistent`", "looked from"]),
        ("extensions=[../x]", ["no Python package `../x`"]),
        # Hydra's own settings
        ("hydra.foo=1", ["hydra.foo", "Hydra's own settings stay as they are"]),
        ("+hydra.foo=1", ["hydra.foo", "Hydra's own settings stay as they are"]),
        ("hydra=5", ["Hydra's own settings stay as they are"]),
        ("hydra.run.dir=elsewhere", ["output_dir=..."]),
        ("hydra.output_subdir=.hydra", ["Hydra's own settings stay as they are"]),
        ("+hydra.callbacks.x._target_=os.system", ["may not choose what Hydra builds"]),
        ("'+hydra.callbacks={x:{_target_:os.system}}'", ["may not choose what Hydra builds"]),
        ("-m hydra.launcher._target_=os.system", ["may not choose what Hydra builds"]),
        ("-m hydra/launcher=submitit", ["no option `submitit`", "did you mean `submitit_"]),
        ("-m hydra/launcher=rq", ["no option `rq`", "pip install hydra-rq-launcher"]),
        ("hydra/launcher=basic", ["only a sweep reads this"]),
        ("hydra.searchpath=[file:///nonexistent]", ["/nonexistent is not available"]),
        ("--config-dir=/nonexistent", ["no such folder"]),
        ("--config-dir=cfg experiment=mine", ["wrong value for `stage.group_size`", "'many'"]),
        ("--config-dir=cfg experiment=broken", ["broken.yaml", "line 3"]),
        ("--config-dir=cfg experiment=evil", ["may not build", "hydra.callbacks.x._target_"]),
        ("--config-dir=cfg experiment=missing", ["Could not find 'data/nope'"]),
        ("--config-name=foo", ["r1 composes from its own conf/", "foo"]),
        ("--config-path=/tmp", ["r1 composes from its own conf/", "r1.reproduce"]),
        ("--experimental-rerun=job.pickle", ["does not rerun pickled jobs"]),
        ("--cfg job stage.group_siz=8", ["did you mean `stage.group_size`"]),
        # the command line itself
        ("+stage.lr=1", ["`stage.lr` is there already"]),
        ("+stage=grpo", ["`stage` is chosen already"]),
        ("''", ["an empty override"]),
        ("=5", ["an override needs a key"]),
        ("grpo", ["an override needs a value"]),
        ("data.template.prefill=<think>", ["cannot be read", "\"data.template.prefill='<think>'\""]),
        ("--dry-run", ["unknown flag", "'--dry-run'", "without dashes"]),
        ("stage=grpo -m stage.lr=1,2", ["flags stand before"]),
        ("stage.lr=1,2", ["several values", "-m"]),
        ("stage = grpo", ["no spaces around its =", "'stage = grpo'"]),
        ("data.instruction=Think step by", ["quoted twice: \"data.instruction='Think step ...'\""]),
        ("stage=sft reward", ["reward=OPTION: r1 options reward lists them"]),
        ("val.ks=[1 4]", ["a list has no spaces"]),
        ("~stage.lr=5", ["`stage.lr` has another value", "0.0003", "~stage.lr leaves it out"]),
        ("stage@foo=sft", ["stage=sft replaces the chosen one"]),
        ("reward/terms=length", ["+reward/terms@reward.terms.NAME=length"]),
        ("~reward/terms", ["~reward.terms.NAME leaves one out"]),
        ("'stage.lr=${foo.bar}'", ["leads nowhere", "'foo.bar' not found"]),
        ("'stage.lr=${stage.lr}'", ["leads nowhere", "Recursive"]),
        ("'stage.lr=${oc.env:NOT_SET_KEY}'", ["leads nowhere", "NOT_SET_KEY"]),
        ("'stage.lr=${'", ["cannot be read"]),
        ("'name=\\${foo}'", ["interpolation of its own"]),
        # sweeps
        ("-m stage.lr=1e-4,abc", ["point 2 of 2", "stage.lr=abc", "number > 0"]),
        ("-m stage.group_size=8,1", ["point 2 of 2", "compares the completions of a group"]),
        ("-m stage=grpo,spo", ["no option `spo`"]),
        ("-m stage=grpo,sft stage.group_size=8", ["unknown key `stage.group_size`"]),
        ("-m 'stage.lr=interval(1,2)'", ["stage.lr=interval(1,2)", "interval needs a sweeper plugin"]),
        ("-m 'stage.lr=range(1,2,0)'", ["this is no grid", "stage.lr=range(1,2,0)"]),
        ("-m seed=1,2 output_dir=x", ["a folder of its own", "${hydra:job.num}"]),
        # what one key means for another
        ("stage.group_size=1", ["stage/advantage=group", "whole number >= 2"]),
        ("stage.group_size=1 stage/advantage=center", ["stage/advantage=center", "whole number >= 2"]),
        ("stage.clip_dual=1.2", ["stage.clip_dual", "value    1.2", "number > 1.2"]),
        ("stage.clip_dual=3 stage/loss=cispo", ["stage.clip_dual", "would do nothing", "null"]),
        ("stage.clip_dual=1.25 stage.clip_high=0.28", ["stage.clip_dual", "number > 1.28"]),
        ("trainer.max_steps=5 trainer.max_epochs=2", ["trainer.max_steps", "after its steps or after its epochs"]),
        ("stage=eval trainer.max_epochs=2", ["trainer.max_epochs", "this stage trains nothing"]),
        ("stage=distill trainer.max_epochs=2", ["trainer.max_epochs", "data=traces"]),
        ("budget=tokens trainer.max_epochs=2", ["trainer.max_epochs", "the tokens end the run"]),
        ("stage.min_lr=0.1", ["a constant learning rate has no end", "schedule=cosine"]),
        ("stage.schedule=wsd", ["stage.decay_steps", "belong to schedule=wsd", "null", "set both or neither"]),
        ("stage.decay_steps=4", ["stage.decay_steps", "belong to schedule=wsd", "set both or neither"]),
        (
            "stage/optimizer=muon strategy=fsdp trainer.devices=2",
            ["shards the state of AdamW only", "stage/optimizer=adamw"],
        ),
        ("stage.ref_sync_every=4", ["stage.ref_sync_every", "no reference that could move", "set stage.kl_coef"]),
        ("stage.kl_in=reward", ["stage.kl_in", "weight 0", "stage.kl_in=loss"]),
        ("stage.group_size=999999999", ["stage.group_size", "do not divide", "1, 2, 4, 8, 16"]),
        ("stage.examples_per_step=999999999", ["7999999992 sequences", "10000000 in all"]),
        ("stage.examples_per_step=15 strategy=ddp trainer.devices=2", ["do not divide over", "multiples of 2"]),
        ("trainer.devices=2", ["for one device", "strategy=ddp"]),
        ("strategy=ddp trainer.accelerator=gpu trainer.devices=8", ["has 0 device(s)", "trainer.accelerator=cpu"]),
        ("trainer.accelerator=mps", ["this machine has 0 device(s)"]),
        ("trainer.precision=16-mixed", ["trainer.precision", "one of: 32-true, bf16-mixed"]),
        ("model.dtype=bfloat16", ["do not learn", "model.dtype=float32 trainer.precision=bf16-mixed keeps"]),
        ("stage=sft model.dtype=float16", ["float16 weights do not learn", "model.dtype=float32"]),
        ("stage=reward_model model.dtype=bfloat16", ["do not learn", "trainer.precision=bf16-mixed"]),
        ("strategy=ddp trainer.num_nodes=2", ["need a launcher", "torchrun"]),
        ("rollout.temperature=0", ["greedy rollouts are all alike", "number > 0"]),
        ("rollout.top_p=0.9", ["rollout.top_p", "probabilities over all tokens", "val.sampling.top_p=0.9"]),
        ("rollout.repetition_penalty=1.1", ["rollout.repetition_penalty", "1 (off)"]),
        ("rollout.top_p=0 stage=eval", ["rollout.top_p", "> 0 and <= 1"]),
        ("rollout.top_k=-1 stage=eval", ["rollout.top_k", "whole number >= 0"]),
        ("rollout.stop=x stage=eval", ["rollout.stop", "a list", "rollout.stop=[x]"]),
        ("val.sampling.min_p=2", ["val.sampling.min_p", "<= 1 or null"]),
        ("val.sampling.top_q=1", ["did you mean `val.sampling.top_p`"]),
        ("'val.sampling.stop=[\"<|eos|>.\"]'", ["val.sampling.stop", "special token <|eos|>"]),
        ("rollout.max_completion_length=5000", ["does not fit into the context of 1024", "at most 10"]),
        ("reward.terms.format.weight=0", ["never learned from", "weight=null"]),
        ("reward.terms.format.weight=null reward.terms.accuracy.weight=null", ["nothing to learn from"]),
        (
            "+reward/terms@reward.terms.length=length reward.terms.length.buffer=100",
            ["reward.terms.length.buffer", "1 to 64"],
        ),
        ("val.ks=[1,16]", ["pass@16", "1 to 8 (val.num_samples)"]),
        ("val.ks=[0]", ["pass@0"]),
        ("stage.examples_per_step=8192", ["at most 4096"]),
        (
            "+stage/filters@stage.filters.x=length",
            ["unknown key `stage.filters`", "stage=distill or rejection_sampling reads it"],
        ),
        ("stage=distill stage.filters.verifer.min=1", ["did you mean `stage.filters.verifier"]),
        ("stage=distill +stage.filters.verifer.min=1", ["is no filter", "did you mean `stage.filters.verifier`"]),
        ("stage=distill +stage.filters.x=5", ["`stage.filters.x` is no filter", "~stage.filters.x"]),
        ("stage=distill +stage/filters=length", ["by their names", "+stage/filters@stage.filters.NAME=OPTION"]),
        ("stage=distill ~stage.filters", ["by their names"]),
        ("stage=distill stage.filters.verifier.min=high", ["wrong value", "finite number or null"]),
        ("stage=distill stage.filters.verifier.min=null", ["without a bound", "~stage.filters.verifier"]),
        ("stage=distill stage.filters.verifier.max=0.5", ["no value lies within", "stage.filters.verifier.min"]),
        ("stage=distill ~stage.filters.verifier.min", ["`stage.filters.verifier.min` is missing"]),
        ("stage=distill +stage.filters.verifier.weight=1", ["unknown key `stage.filters.verifier.weight`"]),
        (
            "stage=rejection_sampling stage.filters.language.target=xx",
            ["stage.filters.language.target", "one of: en, zh"],
        ),
        ("stage=rejection_sampling stage.filters.format._target_=os.system", ["may not build", "'os.system'"]),
        (
            "stage=rejection_sampling stage.filters.format._target_=r1.data.completion.parse",
            ["does not fit `stage.filters.format`"],
        ),
        ("stage=rejection_sampling stage.num_questions=10000", ["4096 questions"]),
        ("stage=rejection_sampling stage.select=some", ["one of: all, best"]),
        ("stage=rejection_sampling rollout.temperature=0", ["greedy answers", "all alike"]),
        ("stage=rejection_sampling rollout.top_k=1", ["greedy answers", "0, or >= 2"]),
        (
            "stage=rejection_sampling stage.min_pass_rate=0.6 stage.max_pass_rate=0.4",
            ["at most stage.max_pass_rate=0.4"],
        ),
        ("stage=distill_logits", ["log-probability of every token", "teacher=transformers"]),
        ("stage=distill_on_policy", ["log-probability of every token", "stage=distill, which needs"]),
        ("stage=distill stage.num_questions=10000", ["4096 questions", "stage.num_questions=4096"]),
        ("stage=distill stage.num_questions=10", ["the 10 there are to learn from"]),
        ("teacher.error_rate=0.5 stage=grpo", ["stage=grpo has no teacher", "'0.5'", "stage=distill"]),
        ("teacher=openai", ["stage=grpo has no teacher"]),
        ("resume=auto", ["output_dir, which is not set"]),
        ("output_dir=held", ["already holds a run", "resume=auto"]),
        ("name=../../x", ["must stay inside outputs/"]),
        ("data.min_terms=7", ["no sum has so few terms", ">= 7"]),
        ("data/template=r1_zero 'data.template.text=\"no question\"'", ["never shows the question", "{prompt}"]),
        ("model.tokenizer=think", ["ends with <think>", """data.template.prefill="'<think>'\"""", "count as part"]),
        ("data=dataset data.path=long.jsonl data.num_val=8 val.num_prompts=8", ["the prompt alone is too long"]),
        ("model=tiny model.config.model_type=llama", ["`model.config` is null"]),
        ("model.config=null", ["either loaded (`path`) or initialised (`config`)"]),
        ("model.tokenizer=null", ["random weights need a tokenizer"]),
        ("model.config.model_type=lama", ["no such causal language model", "did you mean `llama`"]),
        ("+model.config.hidden_siz=5", ["a llama model does not read it", "did you mean `model.config.hidden_size`"]),
        ("model.config.num_hidden_layers=-1", ["whole number >= 1"]),
        ("model.config.num_key_value_heads=3", ["4 query heads do not divide"]),
        ("model.attn_implementation=flash_attention_2", ["`flash_attn`, which is not installed"]),
        # secrets
        ("stage=distill teacher=openai teacher.api_key_env=NOT_SET_KEY", ["holds no key", "export NOT_SET_KEY"]),
        ("stage=distill teacher=openai teacher.url=http://host/v1", ["sent encrypted only", "https://"]),
    ],
    DATA: [
        ("data=dataset data.path=missing.jsonl", ["data file not found", "'missing.jsonl'", "looked in /"]),
        ("data=dataset data.path=rows.jsonl data.num_val=8 data.val_path=no.jsonl", ["data.val_path", "'no.jsonl'"]),
        ("data=dataset data.path=bad.jsonl", ["bad.jsonl:2", "invalid JSON at column 11"]),
        ("data=dataset data.path=none.jsonl", ["no rows"]),
        ("data=dataset data.path=file", [".jsonl, .parquet"]),
        ("data=dataset data.path=rows.jsonl data.columns.answer=anser", ["no column `anser`", "did you mean `answer`"]),
        ("data=dataset data.path=rows.jsonl data.num_val=40", ["leaves none of the 40"]),
        (
            "data=dataset data.path=taken.jsonl data.num_val=8 val.num_prompts=8",
            ["taken.jsonl:1: this column name is reserved", "'verifier'"],
        ),
        (
            "data=dataset data.path=rendered.jsonl",
            ["rendered.jsonl:1: ", "name is reserved", "rename the column"],
        ),
        ("data=dataset data.path=half.jsonl", ["half.jsonl:41: half of a surrogate pair"]),
        ("data=dataset data.path=rated.jsonl", ["rated.jsonl:1: ", "`pass_rate` holds no number", "value    '0.5'"]),
        (
            "stage=reward_model data=dataset data.path=pairs.jsonl",
            ["pairs.jsonl:1: the column `chosen` holds no text", "the last message is the user's"],
        ),
        (
            "stage=sft data=dataset data.path=rows.jsonl data.num_val=8 val.num_prompts=8 "
            "stage.examples_per_step=8 stage.micro_batch_size=8",
            ["learns the column `completion`", "32 of 32", "stage=distill"],
        ),
        (
            "stage=sft data=dataset data.path=long_answer.jsonl data.num_val=8 val.num_prompts=8 "
            "stage.examples_per_step=8 stage.micro_batch_size=8",
            ["does not fit into the model's context", "at most 1024 tokens"],
        ),
        ("data=traces data.path=empty", ["no traces here", "stage=distill"]),
        ("data=gsm8k", ["the hub cannot be reached", "'openai/gsm8k'"]),
        ("data=math data.path=/nowhere", ["no such file or folder", "'/nowhere'"]),
        ("data/verifier=countdown", ["the verifier cannot read these rows", "data/verifier=exact"]),
        *(
            (
                f"data=dataset data.path=rows.jsonl data.columns.answer=null data.num_val=8 val.num_prompts=8 {stage}",
                [f"`{name}` compares answers with the gold ones, and no row has one", f"~{key}.{name}"],
            )
            for stage, key, name in (
                ("stage.examples_per_step=8 stage.micro_batch_size=8", "reward.terms", "accuracy"),
                ("stage=eval", "reward.terms", "accuracy"),
                ("stage=rejection_sampling stage.num_questions=8", "stage.filters", "verifier"),
            )
        ),
        (
            "data/verifier=math data=dataset data.path=unread.jsonl",
            ["reads none of the dataset's own answers", "'17 42'"],
        ),
    ],
    MODEL: [
        ("model=tiny model.path=/nowhere", ["no such folder", "'/nowhere'", "hub id"]),
        ("model=tiny model.path=nobody/nothing", ["the hub cannot be reached", "looked in", "nobody/nothing"]),
        ("model=tiny model.path=r1:tny", ["unknown shipped model", "did you mean `r1:tiny`"]),
        ("model=tiny model.path=held", ["holds no model", "config.json", "it holds manifest.json"]),
        ("model.tokenizer=/nowhere", ["no such folder", "model.tokenizer"]),
        ("model.tokenizer=no_template", ["no chat template", "data/template=r1_zero"]),
        ("+model.config.vocab_size=10", ["the tokenizer has", "only 10"]),
        ("model.config.hidden_size=abc", ["expected int, got str"]),
        ("model.config.hidden_size=100 model.config.num_attention_heads=6", ["not a multiple"]),
    ],
    REWARD: [
        (MINE % ("by_level", ""), ["needs the dataset column `level`, which no row has", "answer, completion, prompt"]),
        (
            MINE % ("by_level", "") + " data=dataset data.path=gap.jsonl data.num_val=8 val.num_prompts=8",
            ["needs the dataset column `level`, which 1 of 40 rows lack"],
        ),
        (MINE % ("raises", ""), ["my_rewards.raises", "RuntimeError: boom"]),
        (MINE % ("nothing", ""), ["returned NoneType", "a list of numbers"]),
    ],
    STORAGE: [
        ("output_dir=file", ["is a file", "'file'"]),
        ("output_dir=file/x", ["is a file", "'file/x'"]),
    ],
}


@pytest.mark.parametrize(
    ("code", "command", "words"),
    [(code, command, words) for code, cases in CASES.items() for command, words in cases],
)
def test_invalid_command_prints_one_screen(cli: Cli, code: int, command: str, words: list[str]) -> None:
    result = cli(command)
    assert_one_screen(result)
    assert [word for word in words if word not in result.err] == []
    assert result.code == code, result.err


def test_unreadable_gold_answers_of_all_rows_are_counted_and_named(cli: Cli) -> None:
    knobs = "data.num_val=8 val.num_prompts=8 stage.examples_per_step=8 stage.micro_batch_size=8"
    result = cli(f"data=dataset data/verifier=math data.path=hard.jsonl {knobs}")
    assert result.code == 0
    assert "data.verifier cannot read 10 of 50 gold answers" in result.err
    assert r"\\sum_{n=1}" in result.err
    assert "cannot read" not in cli(f"data=dataset data/verifier=math data.path=rows.jsonl {knobs}").err


VALID = [
    "",
    "stage=sft",
    "stage=sft data=countdown",
    "stage=distill",
    "stage=eval",
    "stage.clip_dual=1.3 stage.clip_high=0.28",
    "stage.ref_sync_every=4 stage.max_kl=1",
    "stage.kl_in=reward stage.kl_coef=0.1",
    "rollout.temperature=0 stage=eval",
    "val.sampling.temperature=0.6 val.sampling.top_p=0.95 rollout.stop=[Q:]",
    "stage=rejection_sampling rollout.top_p=0.95 rollout.top_k=20 val.sampling=null",
    "reward=r1 +reward/terms@reward.terms.length=length reward.terms.length.weight=0.1",
    "+model/lora=default",
    "strategy=ddp trainer.devices=2",
    "logger=wandb",
    "data=dataset data.path=rows.jsonl",
    "model.tokenizer=think \"data.template.prefill='<think>'\"",
    "model.tokenizer=no_template data/template=r1_zero",
    MINE % ("trl", ""),
    MINE % ("array", ""),
    MINE % ("knobs", ",strength:0.5"),
    "output_dir=new/folder",
    "output_dir=empty resume=auto",
    "-m seed=0,1 'output_dir=new/${hydra:job.num}'",
    "-m stage=grpo,sft hydra.sweep.dir=new",
]


@pytest.mark.parametrize("command", VALID)
def test_valid_command_passes_and_writes_nothing(cli: Cli, command: str) -> None:
    result = cli(command)
    assert (result.code, result.out) == (0, ""), result.err
    assert result.err.count("the config is valid") == (2 if command.startswith("-m") else 1)
    assert all(line.startswith("r1  ") for line in result.err.splitlines())


@pytest.mark.parametrize(
    "command",
    [
        "+logger.api_key=hunter2",
        "+logger.api_key=hunter2x",
        "+wandb_token=hunter2",
        "'+logger={api_key:hunter2}'",
        "+stage.password=hunter2",
        "'+logger.api_key=hunter2 <'",
        "stage=distill teacher=openai teacher.url=https://me:hunter2@host/v1",
        "stage=distill teacher=openai teacher.api_key_env=hunter2",
        "logger=wandb logger.entity=sk-hunter2hunter2hunter2",
        "data=dataset data.path=sk-hunter2hunter2hunter2",
        "-m logger=wandb logger.name=sk-hunter2hunter2hunter2,b",
    ],
)
def test_secret_on_command_line_is_rejected_and_not_printed(cli: Cli, command: str) -> None:
    result = cli(command)
    assert_one_screen(result)
    assert result.code == CONFIG
    assert "hunter2" not in result.err


def test_path_with_commit_hash_is_not_a_secret(cli: Cli) -> None:
    result = cli(f"data=dataset data.path=hub/snapshots/{'0123456789' * 4}/rows.jsonl")
    assert result.code == DATA
    assert "data file not found" in result.err


def test_hub_dataset_in_local_cache_needs_no_network(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    data = {"_target_": "r1.data.math.math", "path": "DigitalLearningGmbH/MATH-lighteval", "train_split": "train"}
    with pytest.raises(UserError, match="the hub cannot be reached"):
        check_hub_datasets({"data": data})
    (tmp_path / "DigitalLearningGmbH___math-lighteval").mkdir()
    check_hub_datasets({"data": data})


@pytest.mark.parametrize(
    ("command", "package"),
    [("+model/lora=default", "peft"), ("logger=tensorboard", "tensorboard")],
)
def test_missing_extra_names_the_package(cli: Cli, monkeypatch: pytest.MonkeyPatch, command: str, package: str) -> None:
    monkeypatch.setattr("r1.config.check.rules.find_spec", lambda name: None)
    result = cli(command)
    assert_one_screen(result)
    assert result.code == CONFIG
    assert f"the package `{package}`" in result.err
    assert f"pip install -e '.[{package}]'" in result.err


def test_output_dir_not_writable_fails(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    result = cli("output_dir=new")
    assert_one_screen(result)
    assert result.code == STORAGE
    assert "cannot be written" in result.err


def test_output_dir_locked_by_another_process_fails(cli: Cli, world: Path) -> None:
    (world / "held" / ".lock").touch()
    with (world / "held" / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = cli("output_dir=held resume=auto")
    (world / "held" / ".lock").unlink()
    assert_one_screen(result)
    assert result.code == LOCKED
    assert "another process is writing this run" in result.err


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], object]], int]:
    """A sweep over two seeds in an empty folder, with something else in the place of the runs; its exit code."""

    def started(job: Callable[[int], object]) -> int:
        argv = ["-m", "seed=0,1", "model=scratch"]
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["r1.run", *argv])
        return launch(argv, lambda cfg, overrides: job(cfg["seed"]))

    return started


def test_sweep_continues_after_a_failed_run(sweep: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    def job(seed: int) -> Path:
        if seed == 0:
            raise UserError("the teacher is gone", key="teacher.url", code=MODEL)
        return Path("outputs/second")

    assert sweep(job) == MODEL
    out, err = capsys.readouterr()
    assert out == "outputs/second\n"
    assert err == "r1: the teacher is gone\n  key      teacher.url\n"


def test_unexpected_error_prints_one_traceback(sweep: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(lambda seed: 1 // seed) == 1
    err = capsys.readouterr().err
    assert err.count("ZeroDivisionError") == 1
    assert "Error executing job" not in err


def test_signal_stops_the_sweep(sweep: Callable[..., int]) -> None:
    seen: list[int] = []

    def job(seed: int) -> None:
        seen.append(seed)
        raise Interrupted(15)

    with pytest.raises(SystemExit) as end:
        sweep(job)
    assert (seen, end.value.code) == ([0], 143)


def test_unknown_key_is_reported_without_importing_torch(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "r1.run", "stage.group_siz=8"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ROOT})
    imported = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    message = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert not any(line.rpartition("|")[2].strip() == "torch" for line in imported)
    assert message[0] == "r1: unknown key `stage.group_siz`"
    assert message[-1].split(None, 1) == ["hint", "did you mean `stage.group_size`?"]
    assert (done.returncode, done.stdout, list(tmp_path.iterdir())) == (CONFIG, "", [])


ROOT = str(CONF.parent)


@pytest.mark.parametrize(
    ("key", "value"),
    [("seeds", [1]), ("workers", 2), ("shared", ["seed=1"]), ("result", "rl"), ("steps", {"a": ["seed=1"]})],
)
def test_run_rejects_pipeline_keys(config: Callable[..., dict[str, Any]], key: str, value: Any) -> None:
    cfg = config() | {key: value}
    with pytest.raises(UserError, match="pipeline") as caught:
        check_rules(cfg)
    assert caught.value.key == key
