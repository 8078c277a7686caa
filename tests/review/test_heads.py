"""Learned heads on disk, and in the classifier."""

from pathlib import Path

import numpy as np
import pytest
import torch

from groups import DIM, GROUPS, embeddings
from spiceclust.errors import RunFolderError
from spiceclust.models.designs import build
from spiceclust.models.encoders import Design
from spiceclust.models.heads import Classifier, build_head
from spiceclust.review.heads import corrected_classifier, keep_head, read_head, told_by
from spiceclust.shipped import save_model


def head(seed: int, clusters: int = GROUPS) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = build_head(DIM, clusters).state_dict()
    return {name: torch.randn(each.shape, generator=generator) for name, each in weights.items()}


def test_a_head_comes_back_by_its_digest(tmp_path: Path) -> None:
    one, other = keep_head(tmp_path, head(0)), keep_head(tmp_path, head(1))
    assert one != other
    assert keep_head(tmp_path, head(0)) == one
    for name, weights in read_head(tmp_path, one).items():
        assert torch.equal(weights, head(0)[name])
    assert len(list((tmp_path / "review/heads").iterdir())) == 2


def test_a_damaged_or_missing_head_is_refused(tmp_path: Path) -> None:
    digest = keep_head(tmp_path, head(0))
    file = tmp_path / f"review/heads/{digest}.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(RunFolderError, match="is damaged"):
        read_head(tmp_path, digest)
    with pytest.raises(RunFolderError, match=r"cannot be read .*: learn again"):
        read_head(tmp_path, "0" * 64)


def test_probabilities_are_those_of_the_classifier_with_the_head(tmp_path: Path) -> None:
    points = embeddings()
    found = told_by(head(0, clusters=5), points)
    assert found.shape == (len(points), 5)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    encoder = build(Design("embeddings", "given", 1, 1, DIM))
    classifier = Classifier(encoder, build_head(DIM, GROUPS))
    save_model(tmp_path, classifier, torch.from_numpy(points.astype(np.float32)))
    corrected = corrected_classifier(tmp_path, keep_head(tmp_path, head(0, clusters=5)), torch.device("cpu"))
    with torch.inference_mode():
        said = corrected.head(corrected.encoder(torch.from_numpy(points.astype(np.float32)))).softmax(dim=1)
    np.testing.assert_allclose(said.numpy(), found, atol=2e-3)  # embeddings of 16 bits are not quite of length 1
