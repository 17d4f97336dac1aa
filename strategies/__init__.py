"""How replies become the next model; every rule a flwr `Strategy`. Knows `protocols` only."""
