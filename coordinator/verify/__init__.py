"""`barnraise verify`: every byte of a release held against its manifest, its log, its signatures (DESIGN §9).

The decisions are pure functions over what a release holds; `run` reads the directory and asks them in order.
It knows protocols and how a release is read, and neither torch nor flwr nor numpy nor a network.
"""
