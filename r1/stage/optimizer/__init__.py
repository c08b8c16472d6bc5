"""Optimizers of the policy, one file per option."""
