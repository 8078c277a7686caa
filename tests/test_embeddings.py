"""The embeddings that a run keeps."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from spiceclust.embeddings import EMBEDDINGS, RECORDED, read_embeddings, write_embeddings
from spiceclust.errors import RunFolderError

VALUES = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)


def test_they_come_back_in_half_the_bytes(tmp_path: Path) -> None:
    record = {RECORDED: write_embeddings(tmp_path, VALUES)}
    found = read_embeddings(tmp_path, record)
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, VALUES.astype(np.float16))


def test_every_flipped_byte_and_every_cut_is_refused(tmp_path: Path) -> None:
    record = {RECORDED: write_embeddings(tmp_path, VALUES)}
    whole = (tmp_path / EMBEDDINGS).read_bytes()
    for place in range(len(whole)):
        for damaged in (whole[:place], whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]):
            (tmp_path / EMBEDDINGS).write_bytes(damaged)
            with pytest.raises(RunFolderError, match="is damaged, or was changed: give the same `spiceclust fit`"):
                read_embeddings(tmp_path, record)


def test_a_run_from_before_they_were_kept_says_what_to_do(tmp_path: Path) -> None:
    digest = write_embeddings(tmp_path, VALUES)
    for record in ({}, {RECORDED: digest}):
        with pytest.raises(RunFolderError, match=r"is missing, or not in run\.json: give the same"):
            read_embeddings(tmp_path if not record else tmp_path / "other", record)


def test_what_is_vouched_for_but_no_array_is_refused(tmp_path: Path) -> None:
    (tmp_path / EMBEDDINGS).write_bytes(b"{}")
    with pytest.raises(RunFolderError, match="is damaged"):
        read_embeddings(tmp_path, {RECORDED: hashlib.sha256(b"{}").hexdigest()})
