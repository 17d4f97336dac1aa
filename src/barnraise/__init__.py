"""Barnraise: institutions train one open model together, with proof.

`barnraise.protocols` is what crosses a boundary, `barnraise.coordinator` the federation's server,
`barnraise.client` the institution's side, `barnraise.strategies` how replies become the next model,
`barnraise.testing` what a developer imports to simulate a federation inside a test.
"""

__version__ = "0.1.0"
