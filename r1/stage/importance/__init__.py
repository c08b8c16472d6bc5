"""Importance corrections, one file per option: the weight of each token where the engine's log-probs are not exact."""
