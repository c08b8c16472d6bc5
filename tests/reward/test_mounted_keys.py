"""A component's error names the key that the component is mounted at, under whatever name the user mounts it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import mathverifier
import pytest
from templates import chat

from r1.config.build import build, instantiate_node, rewards
from r1.config.check.components import check_parts
from r1.core.errors import REWARD, UserError
from r1.data.base import Data
from r1.data.mixture import mixture
from r1.data.template.chat import Chat
from r1.data.verifier.exact import exact
from r1.data.verifier.pool import POOL
from r1.reward.base import Rewards, Term
from r1.reward.terms.accuracy import accuracy
from r1.stage.distillation.filters import Filter, Filters
from r1.teacher.base import Teacher

Config = dict[str, Any]
PARTS = ["data=mixture", "+data@data.parts.sums=arithmetic"]
FEW_SUMS = [f"data.parts.sums.{name}" for name in ("min_terms=3", "max_terms=3", "max_term=2", "num_train=1")]


def key_of_error(run: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        run()
    return caught.value.key


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["+reward/terms@reward.terms.mine=length", "reward.terms.mine.buffer=1000"], "reward.terms.mine.buffer"),
        (["+reward/terms@reward.terms.mine=judge", "reward.terms.mine.high=0"], "reward.terms.mine.high"),
        (["+reward/terms@reward.terms.mine=self_judge", "reward.terms.mine.high=0"], "reward.terms.mine.high"),
        ([*PARTS, "data.parts.sums.max_terms=2"], "data.parts.sums.max_terms"),
        ([*PARTS, *FEW_SUMS, "data.parts.sums.num_val=100"], "data.parts.sums.num_val"),
        ([*PARTS, "+data@data.parts.rows=dataset", "data.parts.rows.path=no.jsonl"], "data.parts.rows.path"),
        ([*PARTS, "data.parts.sums.weight=1", "+data@data.parts.b=arithmetic"], "data.parts.b.weight"),
        (
            [*PARTS, "data/template@data.parts.sums.template=r1_zero", "data.parts.sums.template.text=no"],
            "data.parts.sums.template.text",
        ),
        (
            [*PARTS, "data.parts.sums.num_val=8", "data/verifier@data.parts.sums.verifier=countdown"],
            "data.parts.sums.verifier",
        ),
        (["data.max_terms=2"], "data.max_terms"),
        (["data=mixture"], "data.parts"),
    ],
)
def test_error_of_a_component_has_the_key_of_its_mount(
    small: Callable[..., Config], overrides: list[str], key: str
) -> None:
    cfg = small("stage=grpo", *overrides)
    assert key_of_error(lambda: check_parts(cfg, build(cfg))) == key


def test_error_of_a_nested_node_has_the_nested_key() -> None:
    judge = {"_target_": "r1.reward.rubric.Rubric", "text": {"_target_": f"{__name__}.Broken", "value": 3}}
    cfg: Config = {"extensions": [__name__.partition(".")[0]]}
    assert key_of_error(lambda: instantiate_node(judge, "reward.terms.x", cfg)) == "reward.terms.x.text.value"


class Broken:
    def __init__(self, *, value: int) -> None:
        raise UserError("no such value", key=".value", value=value)


def test_error_of_a_filter_has_the_key_of_its_mount() -> None:
    def strict(**columns: Any) -> list[float | None]:
        raise UserError("no", key=".bound")

    asked: dict[str, Any] = {"rows": [{"prompt": "q"}], "completions": [""], "completion_ids": [[1]]}
    filters = Filters([Filter("mine", strict, 1.0, None)])
    run = partial(filters.rejected_by, **asked, truncated=[False], verifier=exact, max_completion_length=1)
    assert key_of_error(run) == "stage.filters.mine.bound"


def test_weight_that_is_not_finite_has_the_key_of_its_mount() -> None:
    node = {"_target_": "r1.reward.terms.finished.finished", "weight": float("inf")}
    cfg: Config = {"reward": {"terms": {"mine": node}}, "extensions": []}
    assert key_of_error(lambda: rewards(cfg)) == "reward.terms.mine.weight"


def test_error_of_a_verifier_in_a_reward_term_has_the_verifiers_key() -> None:
    def closed(*_: Any) -> bool:
        raise UserError("no process starts")

    single = Data([{"prompt": "q"}], [{"prompt": "r"}], chat(), closed)
    terms, row = Rewards({"right": Term("right", accuracy, 1.0)}), {"answer": "1", "part": "sums"}
    shown: dict[str, Any] = {"prompts": ["q"], "completions": ["<answer>1</answer>"], "completion_ids": [[1]]}
    for data, key in ((single, "data.verifier"), (mixture(parts={"sums": single}), "data.parts.sums.verifier")):
        score = partial(terms.score, **shown, rows=[row], verifier=data.verifier, max_completion_length=1)
        assert key_of_error(score) == key
        assert key_of_error(partial(data.correct, "<answer>1</answer>", row)) == key


def test_error_of_a_template_has_the_key_of_its_part(small: Callable[..., Config]) -> None:
    class Refusing(Chat):
        def render(self, *_: Any) -> str:
            raise UserError("refused", key=".system")

    part = Data(
        [{"prompt": "q"}],
        [{"prompt": "r"}],
        Refusing(system="", prefill="", chat_template=None, chat_template_kwargs=None),
        exact,
    )
    tokenizer: Any = None
    assert key_of_error(lambda: part.prompt_ids(tokenizer, {"prompt": "q"})) == "data.template.system"
    both = mixture(parts={"sums": part})
    assert key_of_error(lambda: both.prompt_ids(tokenizer, both.train[0])) == "data.parts.sums.template.system"


def test_error_of_a_judges_teacher_has_the_judges_key(config: Callable[..., Config]) -> None:
    class Silent(Teacher):
        def answer(self, *_: Any) -> Any:
            raise UserError("no answer", key="teacher.base_url", code=REWARD)

    cfg = config("+reward/terms@reward.terms.mine=judge")
    terms = rewards(cfg)
    terms.terms = {"mine": terms.terms["mine"]}
    judge: Any = terms.terms["mine"].function
    judge.teacher, judge.max_errors = Silent(), 0
    shown: dict[str, Any] = {"prompts": ["q"], "completions": ["a"], "completion_ids": [[1]], "rows": [{}]}
    run = partial(terms.score, **shown, verifier=exact, max_completion_length=1)
    assert key_of_error(run) == "reward.terms.mine.teacher.base_url"


def test_pool_that_does_not_start_names_the_verifier(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: Any) -> Any:
        raise UserError("no scoring process starts", code=REWARD)

    monkeypatch.setattr(POOL, "judge", closed)
    node = {"_target_": "r1.data.verifier.math.Math", "seconds": 1.0} | mathverifier.KNOBS
    verifier = instantiate_node(node, "data.verifier", {"extensions": []})
    data = Data([], [], chat(), verifier)
    assert key_of_error(lambda: data.correct("<answer>x+1</answer>", {"answer": "1+x"})) == "data.verifier"
