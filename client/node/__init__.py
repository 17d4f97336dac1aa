"""A member's node: the daemon (keys, network, spool) and its worker (code, data), in two processes.

`python -m barnraise.client.node NODE_DIR` is the daemon. What it decides stands in `desk` and `backoff`,
which are pure; `spool` is what survives a kill; the rest is I/O around them.
"""
