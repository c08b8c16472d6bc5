"""``wandb agent`` that polls five times a second: its interval of 5 s is a class attribute with no setting."""

from __future__ import annotations

import sys

from wandb import wandb_agent
from wandb.cli.cli import cli

wandb_agent.Agent.POLL_INTERVAL = 0.2
sys.argv = ["wandb", "agent", *sys.argv[1:]]
cli()
