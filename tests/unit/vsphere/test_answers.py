"""Answers have an end: unpacked by us, in whatever way they are cut into pieces, and refused beyond a bound."""

from __future__ import annotations

import gzip
import http.client
import io
from typing import Any

import pytest

from farshore.vsphere import answers
from farshore.vsphere.answers import BoundedAnswer

TEXT = b"<Envelope>" + b"".join(b"<a>%d</a>" % number for number in range(20_000)) + b"</Envelope>"


class Wire:
    """A socket that an answer is read from."""

    def __init__(self, sent: bytes) -> None:
        self._sent = sent

    def makefile(self, *_: Any) -> io.BufferedReader:
        return io.BufferedReader(io.BytesIO(self._sent))  # type: ignore[arg-type]


def answer(body: bytes, *headers: str, chunked: bool = False) -> BoundedAnswer:
    if chunked:
        body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in pieces(body)) + b"0\r\n\r\n"
        headers = (*headers, "Transfer-Encoding: chunked")
    else:
        headers = (*headers, f"Content-Length: {len(body)}")
    head = "\r\n".join(("HTTP/1.1 200 OK", *headers)).encode()
    made = BoundedAnswer(Wire(head + b"\r\n\r\n" + body), method="POST")  # type: ignore[arg-type]
    made.begin()
    return made


def pieces(body: bytes) -> list[bytes]:
    return [body[place : place + 777] for place in range(0, len(body), 777)]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_an_answer_is_read_to_its_end(*, packed: bool, chunked: bool) -> None:
    headers = ["Content-Encoding: gzip"] if packed else []
    body = gzip.compress(TEXT) if packed else TEXT
    for amount in (1 << 11, None):
        read = answer(body, *headers, chunked=chunked)
        assert read.getheader("Content-Encoding", "identity") == "identity"
        parts = []
        while part := read.read(amount):
            assert amount is None or len(part) <= amount
            parts.append(part)
        assert b"".join(parts) == TEXT
        assert read.read() == b""
        assert read.isclosed(), "the connection can be used again"


@pytest.mark.parametrize("packed", [False, True])
def test_one_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch, *, packed: bool) -> None:
    monkeypatch.setattr(answers, "MOST_BYTES", len(TEXT) - 1)
    read = answer(*((gzip.compress(TEXT), "Content-Encoding: gzip") if packed else (TEXT,)))
    with pytest.raises(http.client.HTTPException, match="an answer of more than"):
        read.read()


def test_what_unpacks_to_much_is_unpacked_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MOST_BYTES", 1 << 20)
    read = answer(gzip.compress(b"<a/>" * (16 << 20)), "Content-Encoding: gzip")
    assert all(len(read.read(4096)) == 4096 for _ in range(256))
    with pytest.raises(http.client.HTTPException, match="an answer of more than"):
        read.read(4096)


def test_what_follows_a_packed_answer_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MOST_BYTES", 1 << 20)
    read = answer(gzip.compress(b"x") + b"<a/>" * (1 << 19), "Content-Encoding: gzip")
    with pytest.raises(http.client.HTTPException, match="an answer of more than"):
        read.read()


@pytest.mark.parametrize(
    "body",
    [
        b"<a>" + b" " * (answers.MOST_TEXT + 4096) + b"</a>",
        b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
        b"<a><![CDATA[<<<<]]></a>",
        "<a/>".encode("utf-16"),
    ],
)
@pytest.mark.parametrize("amount", [7, 2048])
def test_what_no_soap_message_has_is_refused(body: bytes, amount: int) -> None:
    """In small pieces, too: nothing is overlooked at a boundary."""
    with pytest.raises(http.client.HTTPException, match="not a SOAP message"):
        _read_all(answer(body), amount)


def _read_all(read: BoundedAnswer, amount: int) -> None:
    while read.read(amount):
        pass


def test_texts_of_some_length_are_read() -> None:
    texts = (b"<a>" + b"x" * (answers.MOST_TEXT - 4) + b"</a>") * 3
    assert answer(texts).read() == texts


def test_what_cannot_be_unpacked_is_an_error_of_the_connection() -> None:
    with pytest.raises(http.client.HTTPException, match="cannot be decompressed"):
        answer(b"no gzip at all", "Content-Encoding: gzip").read()
    with pytest.raises(http.client.HTTPException, match="in the encoding 'br'"):
        answer(b"", "Content-Encoding: br")
    with pytest.raises(http.client.HTTPException, match="an invalid cookie"):
        answer(b"", "Set-Cookie: a/b=c")
