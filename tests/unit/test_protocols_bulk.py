"""Chunks and pieces written by hand are what protobuf writes, and are read as protobuf reads them."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from barnraise.protocols import bulk, canonical
from barnraise.protocols import federation_pb2 as pb

DIGEST = canonical.digest(b"some blob")
datas = st.binary(max_size=300) | st.integers(0, 1 << 20).map(bytes)
offsets = st.integers(0, 2**63 - 1) | st.integers(0, 300)


@settings(deadline=None, max_examples=60)
@given(datas)
def test_any_chunk_is_protobufs_and_read_back(data: bytes) -> None:
    assert bulk.chunk(data) == pb.Chunk(data=data).SerializeToString()
    assert bytes(bulk.chunk_data(bulk.chunk(data))) == data


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([DIGEST, "", "é"]), offsets, datas)
def test_any_piece_is_protobufs_and_read_back(digest: str, offset: int, data: bytes) -> None:
    said = pb.FromMember(piece=pb.Piece(digest=digest, offset=offset, data=data))
    assert bulk.piece(digest, offset, data) == said.SerializeToString()
    found = bulk.from_member(said.SerializeToString())
    assert isinstance(found, bulk.Piece)
    assert (found.digest, found.offset, bytes(found.data)) == (digest, offset, data)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_damage_is_read_as_protobuf_reads_it(data: st.DataObject) -> None:
    whole = bytearray(bulk.piece(DIGEST, data.draw(offsets), data.draw(st.binary(max_size=40))))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    message = bytes(whole)
    try:
        expected = pb.FromMember.FromString(message)
    except DecodeError:
        with pytest.raises(DecodeError):
            bulk.from_member(message)
        return
    found = bulk.from_member(message)
    if isinstance(found, bulk.Piece):
        assert expected.WhichOneof("said") == "piece"
        assert found.digest == expected.piece.digest
        assert (found.offset, bytes(found.data)) == (expected.piece.offset, expected.piece.data)
    else:
        assert found == expected


def test_an_offer_is_protobufs() -> None:
    said = pb.FromMember(offer=pb.Offer(order=DIGEST))
    assert bulk.from_member(said.SerializeToString()) == said


def test_reading_does_not_copy() -> None:
    message = bulk.piece(DIGEST, 7, bytes(1000))
    found = bulk.from_member(message)
    assert isinstance(found, bulk.Piece)
    assert isinstance(found.data, memoryview)
    assert found.data.obj is message
    chunk = bulk.chunk(bytes(1000))
    data = bulk.chunk_data(chunk)
    assert isinstance(data, memoryview)
    assert data.obj is chunk
