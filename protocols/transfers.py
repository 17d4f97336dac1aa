"""What both ends of a connection agree on beyond the messages: how large, and how a dead peer is noticed.

Names no library: the options are gRPC's channel arguments, by name.
"""

from __future__ import annotations

CHUNK = 1 << 20  # bytes of content in one message, at most
MAX_MESSAGE = 2 << 20
MAX_PARTS = 1024  # an envelope and its blobs; an offer that names more is none
MAX_PATIENCE = 10  # seconds of silence after which a peer is asked whether it is there
MAX_HANDSHAKE = 20  # seconds in which a connection has shown its certificate
MAX_CONNECTIONS = 512  # at a port, whoever they are: each costs some 44 kB before TLS is done
MAX_SILENCE = 60  # seconds after which a peer that was asked and answers nothing counts as dead
MAX_QUEUE = 120  # seconds that a ping's answer may lie behind other bytes on a line that moves
"""Whoever sends much hears little: an answer waits behind what lies in a send buffer, and 1 MiB takes 16 s
at 64 kB/s. With ten seconds of patience such a line is cut again and again in its first message. Keepalive is
content with whatever arrives; gRPC's own limit on a ping (a minute, if nothing is said) is not."""

_KEEPALIVE = [
    ("grpc.keepalive_time_ms", 1000 * MAX_PATIENCE),
    ("grpc.keepalive_timeout_ms", 1000 * MAX_SILENCE),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.ping_timeout_ms", 1000 * MAX_QUEUE),
]
_SIZES = [
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
]

CHANNEL_OPTIONS: list[tuple[str, int]] = [
    *_KEEPALIVE,
    *_SIZES,
    (
        "grpc.http2.bdp_probe",
        0,
    ),  # its ping, lost with a line, keeps keepalive from asking for 120 s
    ("grpc.http2.lookahead_bytes", 4 << 20),  # what a line may hold in flight
]
SERVER_OPTIONS: list[tuple[str, int]] = [
    *_KEEPALIVE,
    *_SIZES,
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.max_concurrent_streams", 16),
    ("grpc.http2.bdp_probe", 0),  # else what a peer sends decides how large its window grows
    ("grpc.http2.lookahead_bytes", 1 << 20),
    ("grpc.so_reuseport", 0),
    ("grpc.server_handshake_timeout_ms", 1000 * MAX_HANDSHAKE),
    ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
]
