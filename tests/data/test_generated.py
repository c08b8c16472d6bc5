"""The options of generated datasets."""

import random

import pytest
from omegaconf import OmegaConf

from r1.core.errors import UserError
from r1.core.paths import CONF
from r1.data.generated import distinct_problems
from r1.data.split import split_of


@pytest.mark.parametrize("file", sorted((CONF / "data").glob("*.yaml")), ids=lambda file: file.stem)
def test_dataset_seed_is_a_constant(file):
    seed = OmegaConf.to_container(OmegaConf.load(file), resolve=False).get("seed", 0)
    assert type(seed) is int, "runs with different seeds share their data"


@pytest.mark.parametrize("split", ["train", "val"])
def test_distinct_problems_are_of_one_split_in_drawing_order(split):
    rng, same = random.Random(0), random.Random(0)
    problems = distinct_problems(lambda: rng.randrange(600), str, split, 5, 1000, "")
    drawn = [same.randrange(600) for _ in range(1000)]
    assert problems == [n for n in dict.fromkeys(drawn) if split_of(str(n)) == split][:5]


def test_too_few_distinct_problems_are_a_user_error():
    with pytest.raises(UserError, match="not that many different problems") as caught:
        distinct_problems(lambda: 1, str, "train", 2, 100, "lower it")
    assert (caught.value.key, caught.value.hint) == (".num_train", "lower it")
