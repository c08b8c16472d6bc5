"""The rendezvous address of the processes of a Slurm job step."""

from __future__ import annotations

from collections.abc import Mapping

FIRST_PORT, NUM_PORTS = 15000, 10000


def rendezvous_env(env: Mapping[str, str]) -> dict[str, str]:
    """``MASTER_ADDR`` and ``MASTER_PORT`` of a job step, the same for all its tasks, except those set in ``env``."""
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    if "SLURM_STEP_NODELIST" not in env:
        return {}
    number = 7 * int(env["SLURM_JOB_ID"]) + int(env["SLURM_STEP_ID"])  # concurrent steps rarely share a port
    address = SLURMEnvironment.resolve_root_node_address(env["SLURM_STEP_NODELIST"])
    variables = {"MASTER_ADDR": address, "MASTER_PORT": str(FIRST_PORT + number % NUM_PORTS)}
    return {name: value for name, value in variables.items() if name not in env}
