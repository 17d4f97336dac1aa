"""Listening at an address, and what is said where that cannot be."""

from __future__ import annotations

import grpc

from barnraise.protocols.errors import BarnraiseError


def bind(server: grpc.Server, address: str, credentials: grpc.ServerCredentials) -> int:
    """Have the server listen at `host:port`; returns the port. N118 if it cannot be had."""
    try:
        return server.add_secure_port(address, credentials)
    except RuntimeError:
        raise BarnraiseError(
            "N118",
            f"cannot listen on {address}",
            "the port is in use, or the address is not this machine's",
            next="end what holds the port, or give another address",
        ) from None
