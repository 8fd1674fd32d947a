"""Two processes on gloo (DDP, FSDP2) take the steps that one takes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("two_processes.py")


def run_two(tmp_path, mode):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    command += ["--master-port", str(port), str(SCRIPT), mode, str(tmp_path)]
    source = str(Path(__file__).parents[2] / "src")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": source, "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(tmp_path / f"{mode}-{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_two_processes_equal_one(tmp_path, mode):
    sys.path.insert(0, str(SCRIPT.parent))
    from two_processes import NAMES, train

    found = run_two(tmp_path, mode)
    for name in NAMES:
        alone = train(name, "one", 0, 1)
        for rank in range(2):
            for key, value in alone.items():
                assert torch.allclose(found[rank][name][key], value, atol=1e-5), (mode, name, key)
            assert all(torch.equal(found[0][name][k], found[1][name][k]) for k in alone)
