"""The part of an audit that runs the members' code: local training again, and evaluation. It needs torch."""
