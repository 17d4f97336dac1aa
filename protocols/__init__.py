"""What crosses a boundary: wire, disk, signatures. Pure: no sockets, no clock, no torch.

`flower.py` is the one adapter onto flwr; nothing else in this room imports it.
"""
