"""The audit: rounds recomputed from their contributions by the charter's strategy, to the byte.

`sources` is where a record is read from, `contents` what it holds by digest, `story` what the log tells of a
run, `recompute` one round, `audit` all of them. Torch is not known here; who trains again is `auditing`.
"""
