"""Dither: bfloat16 sees the same model, and small updates of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from r1.model.dither import dither


def test_dither_keeps_the_rounded_weights_and_lets_small_updates_through(
    make_model: Callable[..., PreTrainedModel],
) -> None:
    model, plain = make_model("llama"), make_model("llama")
    with torch.no_grad():
        for p in (*model.parameters(), *plain.parameters()):
            p.copy_(p.to(torch.bfloat16).float())
    dither(model, seed=1)
    moved = {False: 0.0, True: 0.0}
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        assert p.to(torch.bfloat16).equal(q.to(torch.bfloat16))
        if p.ndim < 2:
            assert p.equal(q)
            continue
        for dithered, weight in ((True, p.detach()), (False, q.detach())):
            update = weight.abs() / 1024  # a quarter to an eighth of the distance of two bfloat16 numbers
            moved[dithered] += float(((weight + update).bfloat16() != weight.bfloat16()).float().mean())
    assert moved[False] == 0
    assert moved[True] > 1
