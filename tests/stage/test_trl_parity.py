"""The same rollouts, the same weights: TRL's GRPOTrainer and r1 work out the same loss, gradients and advantages.

Everything on TRL's side is TRL: its padding and masks, its rewards and advantages, its forward pass and its loss. Only
the sampling is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from slow import LIMIT, STOPS, assert_same, collected, flat, gradient, groups_of, move
from torch import Tensor
from transformers import AutoTokenizer

from r1.core.model_paths import resolve_model_path
from r1.rollout.base import Rollout
from r1.stage.advantage.base import Advantage
from r1.stage.advantage.batch import batch
from r1.stage.advantage.center import center
from r1.stage.advantage.gdpo import gdpo
from r1.stage.advantage.group import group
from r1.stage.grpo import Grpo
from r1.stage.rl.experience import Experience, Group, split
from r1.stage.runtime.policy_sampler import PolicySampler

Stages = Callable[..., Grpo]
TrlOf = Callable[[float], Any]
TEMPERATURE = 0.8
pytestmark = [  # TRL 1.16 calls what transformers 5 has renamed
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


@pytest.fixture(autouse=True, scope="module")
def many_stops() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PolicySampler, "stop_ids", property(lambda self: STOPS))
        yield


@pytest.fixture(scope="module")
def trl_of(stage: Stages, tmp_path_factory: pytest.TempPathFactory) -> TrlOf:
    """``trl_of(temperature)``: a GRPOTrainer of 16 completions in groups of 4; its temperature is fixed when made."""
    made: dict[float, Any] = {}

    def trainer(temperature: float) -> Any:
        if temperature not in made:
            made[temperature] = new_trainer(stage, str(tmp_path_factory.mktemp("trl")), temperature)
        return made[temperature]

    return trainer


def new_trainer(stage: Stages, folder: str, temperature: float) -> Any:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    config = GRPOConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        per_device_train_batch_size=16,
        gradient_accumulation_steps=1,
        num_generations=4,
        max_completion_length=LIMIT,
        temperature=temperature,
        beta=0.0,
        use_bias_correction_kl=False,  # r1's default: stage.kl_unbiased=false
    )
    trainer = GRPOTrainer(
        model=stage("stage=grpo").policy,
        reward_funcs=[first_term, second_term],
        args=config,
        train_dataset=Dataset.from_dict({"prompt": ["?"] * 4}),
        processing_class=AutoTokenizer.from_pretrained(resolve_model_path("r1:tiny")),
    )
    trainer.eos_token_ids = sorted(STOPS)
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def first_term(completions: list[str], rewards: list[list[float | None]], **columns: Any) -> list[float | None]:
    """TRL hands a dataset's columns to the rewards: here they are the rewards themselves."""
    return [row[0] for row in rewards]


def second_term(completions: list[str], rewards: list[list[float | None]], **columns: Any) -> list[float | None]:
    return [row[1] for row in rewards]


KNOBS: dict[str, Any] = {  # of TRL, as r1 has them at clip_low=0.1, clip_high=0.15 and nothing else
    "loss_type": "dapo",
    "importance_sampling_level": "token",
    "beta": 0.0,
    "epsilon_low": 0.1,
    "epsilon_high": 0.15,
    "entropy_coef": 0.0,
    "scale_rewards": "group",
    "multi_objective_aggregation": "sum_then_normalize",
    "mask_truncated_completions": False,
    "reward_weights": torch.tensor([1.0, 1.0]),
}


def set_up(trainer: Any, knobs: dict[str, Any]) -> None:
    delta, unbiased = knobs.pop("delta", None), knobs.pop("use_bias_correction_kl", False)
    for name, value in (KNOBS | knobs).items():
        assert hasattr(trainer, name), name
        setattr(trainer, name, value)
    trainer.args.delta, trainer.args.use_bias_correction_kl = delta, unbiased
    trainer._entropy_bonus_enabled = trainer.entropy_coef != 0


def set_rollouts(trainer: Any, rollouts: list[Rollout]) -> None:
    """TRL "samples" these."""
    trainer._tokenize_prompts = lambda prompts: ([r.prompt_ids for r in rollouts], None, {})
    trainer._generate_single_turn = lambda *given: ([r.completion_ids for r in rollouts], None)


def trl_inputs(trainer: Any, rollouts: list[Rollout], rewards: list[list[float | None]]) -> dict[str, Any]:
    """What TRL makes of these rollouts and rewards, as if it had sampled them itself; KL and old policy left out."""
    beta, trainer.beta = trainer.beta, 0.0
    set_rollouts(trainer, rollouts)
    rows = [{"prompt": "?", "rewards": values} for values in rewards]
    made: dict[str, Any] = trainer._generate_and_score_completions(rows)
    trainer.beta = beta
    return made


# ---- losses ----


Case = tuple[list[str], dict[str, Any]]
KL = (["stage.kl_coef=0.3"], {"beta": 0.3})
UNBIASED_KL = (["stage.kl_unbiased=true"], {"use_bias_correction_kl": True})
ENTROPY = (["stage.entropy_coef=0.05"], {"entropy_coef": 0.05})
ASYMMETRIC = (
    ["stage.clip_low=0.05", "stage.clip_high=0.28"],
    {"epsilon_low": 0.05, "epsilon_high": 0.28},
)
DUAL = (["stage.clip_dual=1.2"], {"delta": 1.2})
TRUNCATED = (["stage.mask_truncated=true"], {"mask_truncated_completions": True})
TYPES: dict[str, dict[str, Any]] = {
    "grpo": {"loss_type": "grpo"},
    "dapo": {"loss_type": "dapo"},
    "bnpo": {"loss_type": "bnpo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "cispo": {"loss_type": "cispo", "epsilon_high": 1.15},  # 1 + ours
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence"},
    "sapo": {"loss_type": "sapo"},
}
CASES = {
    **{name: [] for name in TYPES},
    **{f"{name} with kl, entropy bonus and truncated ones masked": [KL, ENTROPY, TRUNCATED] for name in TYPES},
    **{f"{name} with asymmetric clips": [ASYMMETRIC] for name in ("grpo", "dapo", "bnpo", "dr_grpo", "gspo")},
    **{f"{name} with a dual clip": [DUAL] for name in ("grpo", "dapo", "bnpo", "dr_grpo", "gspo")},
    **{f"{name} with unbiased kl": [KL, UNBIASED_KL] for name in ("grpo", "dapo", "cispo", "sapo")},
    "dapo with everything": [KL, ENTROPY, ASYMMETRIC, (["stage.clip_dual=1.4"], {"delta": 1.4}), TRUNCATED],
}


def both(
    stage: Stages, trainer: Any, loss: str, options: list[Case], temperature: float = TEMPERATURE, off: bool = True
) -> tuple[tuple[float, Tensor], tuple[float, Tensor]]:
    """(loss, gradient) of r1 and of TRL."""
    ours = [knob for knobs, _ in options for knob in knobs]
    theirs = {name: value for _, knobs in options for name, value in knobs.items()}
    base = ["stage.clip_low=0.1", "stage.clip_high=0.15", f"rollout.temperature={temperature}"]
    made = stage("stage=grpo", f"stage/loss={loss}", *base, *ours)
    groups = groups_of(made)
    experience = learned_from(made, groups)
    if off:
        move(made.policy)
    start = made.step_metrics.get("train/loss", 0.0)
    found = gradient(made, split(experience, made.plan.num_micro_batches))
    return (made.step_metrics["train/loss"] - start, found), of_trl(trainer, made, groups, TYPES[loss] | theirs, off)


def learned_from(made: Grpo, groups: list[Group]) -> Experience:
    return made.with_logps(made.select(made.with_advantages(groups), groups))


def of_trl(trainer: Any, made: Grpo, groups: list[Group], knobs: dict[str, Any], off: bool) -> tuple[float, Tensor]:
    set_up(trainer, dict(knobs))
    trainer.model.load_state_dict(made.policy.state_dict())
    trainer.model.train()
    trainer.model.zero_grad()
    rollouts = flat(groups)
    inputs = trl_inputs(trainer, rollouts, [[r, 0.0] for group in groups for r in group.total])
    every = made.with_advantages(groups)  # none left out, as in TRL
    inputs["old_per_token_logps"] = every.engine_logps if off else None
    if trainer.beta:
        inputs["ref_per_token_logps"] = made.logps_under(made.reference.model, every)
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    return loss.item(), collected(trainer.model)


@pytest.mark.parametrize("case", list(CASES))
def test_grpo_step_matches_trl(stage: Stages, trl_of: TrlOf, case: str) -> None:
    ours, theirs = both(stage, trl_of(TEMPERATURE), case.split()[0], CASES[case])
    assert ours[0] == pytest.approx(theirs[0], abs=1e-5)
    assert_same(ours[1], theirs[1], atol=1e-5)
    assert (ours[1] - theirs[1]).norm() < 1e-4 * theirs[1].norm()


@pytest.mark.parametrize("loss", list(TYPES))
def test_grpo_step_on_policy_matches_trl(stage: Stages, trl_of: TrlOf, loss: str) -> None:
    """TRL takes the policy's own log-probs at its only pass, r1 the sampled ones, which are the same."""
    ours, theirs = both(stage, trl_of(TEMPERATURE), loss, [KL], off=False)
    assert ours[0] == pytest.approx(theirs[0], abs=1e-5)
    assert_same(ours[1], theirs[1], atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 1.3])
def test_grpo_step_at_other_temperatures_matches_trl(stage: Stages, trl_of: TrlOf, temperature: float) -> None:
    ours, theirs = both(stage, trl_of(temperature), "dapo", [KL, ENTROPY], temperature=temperature)
    assert ours[0] == pytest.approx(theirs[0], abs=1e-5)
    assert_same(ours[1], theirs[1], atol=1e-5)


def test_importance_correction_matches_trl(stage: Stages, trl_of: TrlOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL's token_truncate, which it offers for vLLM: min(pi_trainer / pi_engine, 1.2)."""
    monkeypatch.setattr(Grpo, "engine_is_exact", property(lambda self: False))
    trainer = trl_of(TEMPERATURE)
    knobs = ["stage.clip_low=0.1", "stage.clip_high=0.15", f"rollout.temperature={TEMPERATURE}"]
    made = stage("stage=grpo", "stage.num_iterations=2", "stage.importance.cap=1.2", "stage.kl_coef=0.1", *knobs)
    groups = groups_of(made)
    experience = made.with_advantages(groups)
    noise = 0.3 * torch.randn(experience.engine_logps.shape, generator=torch.Generator().manual_seed(4))
    experience = replace(experience, engine_logps=experience.engine_logps + noise * experience.mask)
    experience = made.with_logps(made.select(experience, groups))
    move(made.policy)
    found = gradient(made, split(experience, 4))
    set_up(trainer, {"beta": 0.1})
    monkeypatch.setattr(trainer, "use_vllm", True)
    monkeypatch.setattr(trainer, "vllm_importance_sampling_correction", True)
    trainer.model.load_state_dict(made.policy.state_dict())
    trainer.model.train()
    trainer.model.zero_grad()
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "use_vllm", False)
        inputs = trl_inputs(trainer, flat(groups), [[r, 0.0] for group in groups for r in group.total])
    inputs["old_per_token_logps"], inputs["ref_per_token_logps"] = experience.old_logps, experience.ref_logps
    gap = experience.old_logps - experience.engine_logps
    inputs["importance_sampling_ratio"] = gap.exp().clamp(max=1.2)
    trainer._compute_loss(trainer.model, inputs).backward()
    assert (inputs["importance_sampling_ratio"] == 1.2).float().mean() > 0.1
    assert_same(found, collected(trainer.model), atol=1e-5)


@pytest.mark.parametrize("loss", list(TYPES))
def test_minibatches_match_trl_steps_per_generation(
    stage: Stages, trl_of: TrlOf, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    """One rollout batch, two optimizer steps: TRL makes, shuffles and buffers its inputs; here it shuffles nothing."""
    trainer = trl_of(TEMPERATURE)
    knobs = ["stage.examples_per_step=2", "stage.steps_per_rollout=2", "stage.clip_low=0.1", "stage.clip_high=0.15"]
    made = stage("stage=grpo", f"stage/loss={loss}", *knobs, f"rollout.temperature={TEMPERATURE}")
    groups = groups_of(made)
    set_up(trainer, dict(TYPES[loss]))
    set_rollouts(trainer, flat(groups))
    monkeypatch.setattr(trainer.args, "steps_per_generation", 2)
    monkeypatch.setattr("trl.trainer.grpo_trainer.shuffle_sequence_dict", lambda batch: batch)
    monkeypatch.setattr(trainer, "_buffered_inputs", None)
    rows = [{"prompt": "?", "rewards": [r, 0.0]} for group in groups for r in group.total]
    for step in range(2):
        found = gradient(made, made.micro_batches(step))
        trainer.model.load_state_dict(made.policy.state_dict())
        trainer.model.train()
        trainer.model.zero_grad()
        monkeypatch.setattr(trainer, "_step", step)
        trainer._compute_loss(trainer.model, trainer._prepare_inputs(rows)).backward()
        assert_same(found, collected(trainer.model), atol=1e-5)
        move(made.policy)
    assert (made.step_metrics["train/clip_frac"] > 0) == made.objective.loss.clips


def test_step_counts_match_trl(stage: Stages, trl_of: TrlOf) -> None:
    made = stage("stage=grpo", "stage.mask_truncated=true", f"rollout.temperature={TEMPERATURE}")
    groups = groups_of(made)
    trainer = trl_of(TEMPERATURE)
    set_up(trainer, {"mask_truncated_completions": True})
    inputs = trl_inputs(trainer, flat(groups), [[r, 0.0] for group in groups for r in group.total])
    experience = learned_from(made, groups)
    assert 0 < len(experience) < 16
    assert experience.counts.num_tokens == experience.num_tokens == inputs["num_items_in_batch"]
    assert experience.counts.num_sequences == len(inputs["completion_mask"]) == 16
    assert inputs["completion_mask"].sum(1)[inputs["completion_mask"].any(1)].tolist() == experience.lengths


# ---- advantages ----


RIGHT = [[1.0, 0.0, 0.0, 0.0], [0.2, 1.2, 1.2, 0.2], [1.0, 1.0, 1.0, 1.0], [0.0, 3.0, -1.0, 0.5]]
SHORT = [[0.5, 0.25, 1.0, 0.75], [0.1, 0.9, 0.2, 0.4], [0.3, 0.6, 0.1, 0.2], [0.7, 0.7, 0.7, 0.7]]
MISSING: list[list[float | None]] = [[None, 0.0, 1.0, 0.0], [None, None, 1.0, 0.2], [0.5, 0.5, 1.0, 0.0], RIGHT[3]]
EPSILON: dict[str, Any] = {"epsilon": 1e-4}  # TRL's


@pytest.fixture(scope="module")
def sixteen(stage: Stages) -> list[Rollout]:
    return flat(groups_of(stage("stage=grpo", f"rollout.temperature={TEMPERATURE}")))


def trl_advantages(trainer: Any, rollouts: list[Rollout], first: Any, second: Any, **knobs: Any) -> Tensor:
    set_up(trainer, knobs)
    pairs = [[a, b] for row, other in zip(first, second, strict=True) for a, b in zip(row, other, strict=True)]
    found: Tensor = trl_inputs(trainer, rollouts, pairs)["advantages"].view(4, 4)
    return found


def tensor(values: Any) -> Tensor:
    return torch.tensor([[math.nan if v is None else v for v in row] for row in values])


@pytest.mark.parametrize("rewards", [RIGHT, SHORT, MISSING], ids=["right", "short", "missing"])
@pytest.mark.parametrize(("name", "ours"), [("group", lambda r: group(r, **EPSILON)), ("none", center)])
def test_advantages_match_trl(trl_of: TrlOf, sixteen: list[Rollout], name: str, ours: Advantage, rewards: Any) -> None:
    nothing = [[None if r is None else 0.0 for r in row] for row in rewards]
    theirs = trl_advantages(trl_of(TEMPERATURE), sixteen, rewards, nothing, scale_rewards=name)
    torch.testing.assert_close(ours(tensor(rewards)), theirs, rtol=1e-5, atol=1e-5)


def test_weighted_sum_of_terms_matches_trl(trl_of: TrlOf, sixteen: list[Rollout]) -> None:
    weights = torch.tensor([1.0, -0.5])
    theirs = trl_advantages(trl_of(TEMPERATURE), sixteen, RIGHT, SHORT, reward_weights=weights)
    ours = group(tensor(RIGHT) - 0.5 * tensor(SHORT), **EPSILON)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_batch_std_matches_trl_for_groups_with_equal_means(trl_of: TrlOf, sixteen: list[Rollout]) -> None:
    """TRL's is the spread of the rewards, ours that of what is left of them: the same where no group is harder."""
    rewards = [[1.0, 0.0, 0.0, 0.0], [0.25, 0.75, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]]
    nothing = [[0.0] * 4] * 4
    theirs = trl_advantages(trl_of(TEMPERATURE), sixteen, rewards, nothing, scale_rewards="batch")
    torch.testing.assert_close(batch(tensor(rewards), **EPSILON), theirs, rtol=1e-5, atol=1e-5)
    harder = [[r + 5 * p for r in row] for p, row in enumerate(rewards)]
    theirs = trl_advantages(trl_of(TEMPERATURE), sixteen, harder, nothing, scale_rewards="batch")
    ours = batch(tensor(harder), **EPSILON)
    scale = (ours[0, 0] / theirs[0, 0]).item()
    assert scale > 5
    torch.testing.assert_close(ours, theirs * scale, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weights", [[1.0, 1.0], [1.0, -0.25]])
def test_gdpo_matches_trl_normalize_then_sum(trl_of: TrlOf, sixteen: list[Rollout], weights: list[float]) -> None:
    factors = torch.tensor(weights)
    knobs = {"multi_objective_aggregation": "normalize_then_sum", "reward_weights": factors}
    theirs = trl_advantages(trl_of(TEMPERATURE), sixteen, RIGHT, SHORT, **knobs)
    terms = torch.stack([tensor(RIGHT), tensor(SHORT)])
    ours = gdpo(terms, factors, **EPSILON, scale_by_batch=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("second", [SHORT, [[None, *SHORT[0][1:]], *SHORT[1:]]], ids=["one", "both"])
def test_gdpo_matches_trl_with_missing_terms(trl_of: TrlOf, sixteen: list[Rollout], second: Any) -> None:
    """To the first completion one term, or both of them."""
    knobs = {"multi_objective_aggregation": "normalize_then_sum", "reward_weights": torch.tensor([1.0, 0.5])}
    theirs = trl_advantages(trl_of(TEMPERATURE), sixteen, MISSING, second, **knobs)
    terms = torch.stack([tensor(MISSING), tensor(second)])
    ours = gdpo(terms, torch.tensor([1.0, 0.5]), **EPSILON, scale_by_batch=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
