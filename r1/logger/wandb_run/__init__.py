"""The worker process that sends a run's record to Weights & Biases."""
