"""One GRPO step: rollout batch, experience, reference model, asynchronous rollouts."""
