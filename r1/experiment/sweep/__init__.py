"""A W&B sweep file, run on this machine."""
