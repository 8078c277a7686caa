"""What files do to the process that decodes them; `unruly.py` is a decoder that does what a file tells it to."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pictures import encoded, told
from spiceclust.data import processes
from spiceclust.data.decode import DecodeError
from spiceclust.data.decoder import Decoder

GOOD = [encoded(i) for i in range(6)]


@pytest.fixture(autouse=True, scope="module")
def unruly() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "BOOT", processes.BOOT.replace("spiceclust.data.worker", "unruly"))
        patch.setattr(sys, "path", [*sys.path, str(Path(__file__).parent)])
        patch.setenv("UNRULY_SECONDS", "0.3")
        processes.FIRST.close()
        yield
        processes.FIRST.close()


CRASHES = {
    b"signal 11": "the decoder crashed (signal 11)",
    b"signal 6": "the decoder crashed (signal 6)",
    b"signal 9": "the decoder crashed (signal 9)",
    b"exit": "the decoder ended without an answer",
    b"exception": "the decoder ended without an answer",
    b"what": "the decoder gave an answer that is none",
    b"long": "the decoder gave an answer that is none",
    b"wide": "the decoder gave an answer that is none",
}


@pytest.mark.parametrize("order", CRASHES)
def test_a_file_that_kills_its_decoder_is_refused_and_its_neighbours_are_not(order: bytes) -> None:
    with Decoder(1) as decoder:
        contents = [GOOD[0], order, GOOD[1], order + b" ", GOOD[2]]
        assert told(decoder, contents) == ["", CRASHES[order], "", CRASHES[order], ""]
        assert decoder.crashed >= 2
        assert told(decoder, GOOD) == [""] * 6


def test_many_small_answers_wake_this_process_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    plain = processes._Line.readinto
    monkeypatch.setattr(processes, "DOZE", 60.0)  # however busy the machine is
    monkeypatch.setattr(processes._Line, "readinto", lambda line, part: [reads.append(n := plain(line, part)), n][1])
    with Decoder(1) as decoder:
        for _ in range(3):
            assert told(decoder, GOOD) == [""] * 6
            assert told(decoder, GOOD[:1]) == [""]
            # those of one request came together, but for the last, which may; one file alone has no bell
            assert len(reads) <= 4
            reads.clear()


@pytest.mark.parametrize("side", [150, 400])
def test_answers_that_fill_the_socket_are_taken_meanwhile(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "DOZE", 60.0)  # a bell that came too late would be waited for
    start = time.monotonic()
    with Decoder(1) as decoder:
        for _ in range(2):
            found = decoder.squares([*GOOD, b"no picture", *GOOD], side)
            assert [isinstance(answer, DecodeError) for answer in found] == [False] * 6 + [True] + [False] * 6
            for left, right in zip(found[:6], found[7:], strict=True):
                assert not isinstance(left, DecodeError)
                assert not isinstance(right, DecodeError)
                assert np.shape(left[0]) == (side, side, 3)
                assert np.array_equal(left[0], right[0])  # type: ignore[arg-type]
        assert decoder.crashed == 0
    assert time.monotonic() - start < 50


def test_reasons_are_a_line_of_text() -> None:
    with Decoder(1) as decoder:
        assert told(decoder, [b"lines", GOOD[0]]) == ["\ufffd one two", ""]
        assert decoder.crashed == 0


def test_a_file_that_computes_without_end_is_stopped() -> None:
    with Decoder(2) as decoder:
        assert told(decoder, [GOOD[0], b"compute", GOOD[1]]) == ["", "took longer than 4 s to decode", ""]
        assert (decoder.stopped, decoder.crashed) == (1, 0)
        assert decoder.slowest[0] >= 0.3 - processes.DOZE
        assert decoder.slowest[1] == 4


@pytest.mark.parametrize("order", [b"sleep", b"half"])
def test_a_decoder_that_says_nothing_is_not_waited_for(order: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "ASLEEP", 0.5)
    with Decoder(1) as decoder:
        assert told(decoder, [GOOD[0], order]) == ["", "the decoder hung: it slept for 0.5 s"]
        assert told(decoder, [GOOD[1]]) == [""]


def test_a_file_that_takes_too_much_memory_is_refused() -> None:
    with Decoder(2) as decoder:
        contents = [GOOD[0], b"memory 2000000000", GOOD[1]]
        assert told(decoder, contents) == ["", "too large: takes more than 800 MB to decode", ""]
        assert decoder.crashed == 0


def test_what_takes_more_than_a_share_is_decoded_alone() -> None:
    with Decoder(2) as decoder:
        # 500 MB are more than a share of 320 and the slack, and less than 800: what comes after it is told
        assert told(decoder, [b"memory 500000000", GOOD[0]]) == ["not an image in a supported format", ""]


def test_harm_that_one_file_did_is_not_blamed_on_the_next() -> None:
    with Decoder(1) as decoder:
        assert told(decoder, [GOOD[0], b"harm", GOOD[1], GOOD[2]]) == ["", "damaged None file: harm", "", ""]
        assert decoder.crashed == 1


def test_many_files_that_kill_their_decoder_take_little_time() -> None:
    with Decoder(2) as decoder:
        told(decoder, GOOD)
        start = time.process_time() + sum(os.times()[2:4])
        assert told(decoder, [b"signal 11"] * 200) == ["the decoder crashed (signal 11)"] * 200
        assert decoder.crashed in (200, 201)
        assert time.process_time() + sum(os.times()[2:4]) - start < 5
