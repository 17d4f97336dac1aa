"""`python -m barnraise.client.node NODE_DIR [--parent PID]`: the daemon of one node."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from barnraise.client.node.daemon import main

parser = argparse.ArgumentParser(prog="barnraise.client.node", description="A member's node.")
parser.add_argument("node_dir", type=Path, help="the node's directory")
parser.add_argument("--parent", type=int, help="end when this process, which started it, ends")
asked = parser.parse_args()
sys.exit(main(asked.node_dir, asked.parent))
