"""What a contribution was made with: the part of a machine on which the bytes of local work hang.

It goes with each train reply as the record `environment`, so it is signed and on record, and whoever trains
the order again knows whether to expect the same bytes. Of the machine it names kinds, never an identity.
"""

from __future__ import annotations

import platform

import numpy as np
import torch
from flwr.app import ConfigRecord

ENVIRONMENT = "environment"


def environment(device: torch.device) -> ConfigRecord:
    """Versions, the processor's kind and what torch makes of it, the device and torch's threads."""
    return ConfigRecord(
        {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "machine": platform.machine(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "device": device.type,
            "threads": torch.get_num_threads(),
        }
    )
