"""What a machine must have, on either side: room on its disk, a directory to write in, perhaps a GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from barnraise.doctor.check import Check

LITTLE = 2 << 30  # bytes free below which a run may not fit


def checks(directory: Path) -> list[Check]:
    return [_directory(directory), _disk(directory), _gpu()]


def _directory(directory: Path) -> Check:
    path = directory.absolute()
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        fix = f"chown {path} to the user that runs Barnraise"
        return Check("directory", f"{path} cannot be read and written", "H108", fix)
    mode = path.stat().st_mode & 0o077
    keys = [p for p in (path, path / "federation") if (p / "secret").exists() or p != path]
    if mode and any(p.exists() for p in keys):
        return Check("directory", f"others may enter {path}", "H108", f"chmod 700 {path}")
    return Check("directory", str(path))


def _disk(directory: Path) -> Check:
    free = shutil.disk_usage(directory).free
    saw = f"{free / 1e9:.1f} GB free"
    if free < LITTLE:
        return Check("disk", saw, "H107", f"make room on the disk of {directory.absolute()}")
    return Check("disk", saw)


def _gpu() -> Check:
    """A GPU that the driver shows and torch does not use is worth a word; none is no fault."""
    try:
        shown = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return Check("GPU", "none: training uses the processor")
    import torch

    if not torch.cuda.is_available():
        fix = "install the torch build for this driver's CUDA version"
        return Check("GPU", f"{shown.splitlines()[0]}, and torch cannot use it", "H112", fix)
    return Check("GPU", shown.splitlines()[0])
