"""torchrun on two machines: two network namespaces of this one, which reach each other over one cable."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from forkserver import knobs
from safetensors.torch import load_file
from samerun import manifest

from r1.core.paths import CONF

CABLE = {"r1a": "10.77.0.1", "r1b": "10.77.0.2"}  # of each machine: its name, its end of the cable, its address
LONGEST_S = 280.0

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not shutil.which("ip") or os.getuid() != 0, reason="needs root and iproute2: apt-get install iproute2"
    ),
]


def ip(*argv: str) -> None:
    subprocess.run(["ip", *argv], check=True, capture_output=True, text=True)


@pytest.fixture
def machines() -> Iterator[list[str]]:
    try:
        for name in CABLE:
            ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces cannot be made here: {error.stderr}")
    try:
        ip("link", "add", "r1a", "netns", "r1a", "type", "veth", "peer", "name", "r1b", "netns", "r1b")
        for name, address in CABLE.items():
            ip("-n", name, "addr", "add", f"{address}/24", "dev", name)
            ip("-n", name, "link", "set", name, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield list(CABLE)
    finally:
        for name in CABLE:
            ip("netns", "del", name)


def environ(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(CONF.parent), *sys.path])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"} | more


def on(machine: str, rank: int, *argv: str) -> subprocess.Popen[str]:
    """A command as it would be typed on a machine of that name."""
    named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', machine]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    meeting = [f"--node-rank={rank}", f"--master-addr={CABLE['r1a']}", "--master-port=29500"]
    return subprocess.Popen(
        ["ip", "netns", "exec", machine, *named, *torchrun, *meeting, "-m", "r1.run", *argv],
        env=environ(GLOO_SOCKET_IFNAME=machine),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_machines_write_one_record(machines: list[str], tmp_path: Path, strategy: str) -> None:
    argv = knobs("sft", f"strategy={strategy}")
    many = [*argv, "trainer.devices=1", "trainer.num_nodes=2", f"output_dir={tmp_path / 'two'}"]
    running = [on(machine, rank, *many) for rank, machine in enumerate(machines)]
    try:
        outputs = [process.communicate(timeout=LONGEST_S) for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], outputs
    assert [out for out, _ in outputs] == [f"{tmp_path / 'two'}\n", ""]
    assert manifest(tmp_path / "two")["devices"] == {
        "count": 2,
        "strategy": strategy,
        "precision": "32-true",
        "hosts": machines,
    }
    one = [sys.executable, "-m", "r1.run", *argv, "trainer.devices=2", f"output_dir={tmp_path / 'one'}"]
    subprocess.run(one, env=environ(), check=True, capture_output=True, timeout=LONGEST_S)
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()
    assert max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0]) < 1e-5
