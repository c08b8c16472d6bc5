"""The knobs of a dataset that is read, as conf/data/dataset.yaml has them, without those of every dataset."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from r1.core.paths import CONF


def knobs_of(option: str) -> dict[str, Any]:
    """The keys of an option, on top of those of conf/data/dataset.yaml."""
    files = [OmegaConf.load(CONF / "data" / f"{name}.yaml") for name in ("dataset", option)]
    merged = OmegaConf.to_container(OmegaConf.merge(*files))
    assert isinstance(merged, dict)
    return {str(key): value for key, value in merged.items() if key not in ("defaults", "_target_")}


PLAIN = knobs_of("dataset")
