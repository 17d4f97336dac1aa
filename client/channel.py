"""How a node connects: TLS always, through the site's proxy (`https_proxy`) if it has one."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import grpc

from barnraise.protocols.invite import split_address


def open_channel(
    address: str, credentials: grpc.ChannelCredentials, options: Sequence[tuple[str, int]] = ()
) -> grpc.Channel:
    """A channel to `host:port`. A proxy cannot reach this machine's own loopback, so none is used there."""
    host, _ = split_address(address)
    direct = [("grpc.enable_http_proxy", 0)] if _is_loopback(host) else []
    return grpc.secure_channel(address, credentials, options=[*options, *direct])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
