"""r1 sample MODEL "3+5+8=?": print completions of a model with their rewards."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

from r1.core.command import ArgumentParser, run_command
from r1.core.runs import errors_of, read_config, refuse_pipeline, require_keys
from r1.core.secrets import REDACTED
from r1.core.types import Config
from r1.data.base import Data, Row
from r1.data.conversation import question_text
from r1.reward.base import Term, required_columns

SAMPLING_FLAGS: dict[str, Callable[[str], Any]] = {
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "min_p": float,
    "repetition_penalty": float,
}
RECORDED_PARTS = ("data", "reward", "rollout", "model")  # of a run's config that its samples take over


def main() -> None:
    run_command(_main)


def _main() -> None:
    parser = ArgumentParser(__doc__)
    parser.add_argument("model", help="a run's folder, a model's or an adapter's, a hub id, or r1:<name>")
    parser.add_argument("--base", help="the base of an adapter's folder (default: that of its adapter_config.json)")
    parser.add_argument("prompt", help="the question")
    parser.add_argument("-n", "--num-samples", type=int, default=4, help="completions (default 4)")
    parser.add_argument("--answer", help="the gold answer, if the dataset cannot compute it")
    for name, kind in SAMPLING_FLAGS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=f"rollout.{name}; default: the run's")
    parser.add_argument("--stop", action="append", help="a text that ends a completion; may be repeated")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.num_samples < 1:
        parser.error("--num-samples is at least 1")
    print_completions(args)


def print_completions(args: argparse.Namespace) -> None:
    """Build the model and its rewards from the command line, sample, and print.

    Raises:
        UserError: the model cannot be read, or its config is invalid.
    """
    from rich.console import Console
    from rich.markup import escape

    from r1.config.build import build
    from r1.config.check.config import check_schema
    from r1.config.check.templates import check_templates
    from r1.core.console import strip_control_chars
    from r1.core.seeds import derive_seed
    from r1.train.fit import silence_third_party_logging

    cfg = eval_config(args.model)
    cfg["model"]["base_path"] = args.base
    flags = {name: getattr(args, name) for name in (*SAMPLING_FLAGS, "stop")}
    cfg["rollout"] |= {name: value for name, value in flags.items() if value is not None}
    check_schema(cfg)
    silence_third_party_logging()
    experiment = build(cfg)
    check_templates(experiment)
    stage = experiment.stage
    stage.configure_model()
    stage.engine.update(stage.policy, 0)
    row = row_for_prompt(experiment.data, args.prompt, args.answer)
    rollouts = stage.sampler.sample([row], [[derive_seed(args.seed, "sample", i) for i in range(args.num_samples)]])[0]
    rows = [row] * len(rollouts)
    experiment.rewards.terms = scorable_terms(experiment.rewards.terms, row)
    texts, scores = stage.sampler.score(rows, rollouts)
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    for i, text in enumerate(texts):
        rewards = {name: values[i] for name, values in scores.terms.items() if not math.isnan(values[i])}
        terms = "  ".join(f"{name} {value:.2f}" for name, value in rewards.items())
        console.print(f"[bold]{scores.total[i]:.2f}[/]  [dim]{terms}[/]\n   {escape(strip_control_chars(text))}")


def eval_config(model: str) -> Config:
    """The default config with ``stage=eval``; for a run's folder with the run's data, rewards, rollout and model."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    import r1.config.compose  # noqa: F401  # the resolvers of conf/ are registered there
    from r1.config.check.config import check_schema
    from r1.core.paths import CONF

    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        container = OmegaConf.to_container(compose("config", overrides=["stage=eval"]), resolve=True)
    assert isinstance(container, dict)
    cfg = {str(k): v for k, v in container.items()}
    config_file = Path(model) / "config.yaml"
    if config_file.is_file():
        recorded = read_config(config_file)
        refuse_pipeline(Path(model), recorded)
        require_keys(config_file, recorded, RECORDED_PARTS, dict)
        cfg |= {key: recorded[key] for key in RECORDED_PARTS} | {"extensions": recorded.get("extensions", [])}
        cfg["reward"] = _without_redacted_terms(cfg["reward"])
        cfg["data"] = _with_saved_chat_template(cfg["data"])
    cfg["model"] |= {"path": model, "base_path": None, "config": None, "tokenizer": None, "lora": None}
    with errors_of(config_file) if config_file.is_file() else nullcontext():
        check_schema(cfg)
    return cfg


def _without_redacted_terms(reward: Config) -> Config:
    """The recorded reward without the terms that need a secret, which no record holds."""
    terms = reward.get("terms") or {}
    redacted = [name for name, term in terms.items() if REDACTED in str(term)]
    for name in redacted:
        print(f"r1  note: reward.terms.{name} is left out: the record holds no secrets", file=sys.stderr)
    return reward | {"terms": {name: term for name, term in terms.items() if name not in redacted}}


def _with_saved_chat_template(node: Any) -> Any:
    """A config of data that takes the chat template from the model's folder: a file of the user's may be gone."""
    if not isinstance(node, dict):
        return node
    return {key: None if key == "chat_template" else _with_saved_chat_template(value) for key, value in node.items()}


def row_for_prompt(data: Data, prompt: str, answer: str | None) -> Row:
    """The dataset's row for a prompt, computed or looked up; with an ``answer`` or without such a row, a new one."""
    if answer is not None:
        return {"prompt": prompt, "answer": answer}
    if data.row_from_question and (row := data.row_from_question(prompt)):
        return row
    rows = (row for row in chain(data.val, data.train) if question_text(row["prompt"]) == prompt)
    return next(rows, {"prompt": prompt})


def scorable_terms(terms: dict[str, Term], row: Row) -> dict[str, Term]:
    """The reward terms whose required columns this row has."""
    return {name: term for name, term in terms.items() if required_columns(term.function) <= row.keys()}


if __name__ == "__main__":
    main()
