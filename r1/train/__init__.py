"""One run: Lightning's trainer, checkpoints, progress, and the record around it."""
