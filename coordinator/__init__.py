"""The federation's server: grid, fleets, journal, blobs, intake, rounds.

Knows `protocols` and `strategies`; never imports `client`, never imports torch.
"""
