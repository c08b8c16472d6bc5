"""The policy: loading, forward passes, packing, fused log-probabilities."""
