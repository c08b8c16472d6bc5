"""One run: Lightning's Trainer, checkpoints, progress, and the record on disk."""
