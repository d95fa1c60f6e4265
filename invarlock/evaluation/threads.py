"""The threads of PyTorch on CPUs."""

from __future__ import annotations

import torch

from invarlock.machine_limits import usable_cores


def limit_threads() -> None:
    """Let PyTorch use no more threads than this process has cores.

    By itself it uses one for each core of the machine, even in a container that may use only a few of them.
    """
    if usable_cores() < torch.get_num_threads():
        torch.set_num_threads(usable_cores())
