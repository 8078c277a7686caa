"""Compiled networks learn what plain ones learn; compiling takes a while, so this is one of the slow tests."""

import shutil
from dataclasses import replace

import pytest
import torch

from spiceclust.config import Facts, Request, resolve
from spiceclust.data.views import Views
from spiceclust.models.heads import Classifier, build_head
from spiceclust.stages import pretrain, self_label, semi
from spiceclust.training.checkpoint import Artefact
from spiceclust.training.context import Context
from spiceclust.training.features import CachedFeatures
from spiceclust.training.sights import PixelSight
from synthetic import shapes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU needs g++"),
    pytest.mark.filterwarnings("ignore"),  # of the compiler
]
CONTEXT = Context(0, torch.device("cpu"), bf16=False)
COMPILED = replace(CONTEXT, compile=True)


def close(plain: Artefact, compiled: Artefact) -> None:
    assert list(plain.tensors) == list(compiled.tensors)
    assert compiled.facts["loss"] == pytest.approx(plain.facts["loss"], rel=1e-3)


def test_stages_learn_the_same_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, **how: modes.append(how["mode"]) or compile(module, **how))
    pictures, classes = shapes(40)
    images, kinds = torch.from_numpy(pictures).unsqueeze(1), torch.from_numpy(classes)
    overrides = {"pretrain": {"epochs": 1}, "semi": {"steps": 4}, "self_label": {"rounds": 3}}
    request = Request(n_clusters=3, image_size=images.shape[-1], overrides=overrides)
    few = resolve(request, Facts(n_images=len(images), native_size=images.shape[-1], channels=1, domain="glyph"))
    first = pretrain.run(images, few, CONTEXT)
    close(first, pretrain.run(images, few, COMPILED))

    encoder = pretrain.new_encoder(images, few, CONTEXT)
    encoder.load_state_dict(dict(first.tensors))
    classifier = Classifier(encoder, build_head(encoder.n_features, 3))
    selected = Artefact({"labels": kinds, "reliable": torch.ones(len(kinds))})
    sight = PixelSight(images, Views(few.views))
    close(*(semi.run(sight, classifier, selected, few, context) for context in (CONTEXT, COMPILED)))

    points = torch.nn.functional.normalize(torch.randn((len(images), 16), generator=torch.Generator().manual_seed(0)))
    neighbors = (points @ points.T).topk(9).indices[:, 1:]
    views = points.half().expand(2, -1, -1)
    embedded = Artefact({"plain": points, "weak": views, "strong": views, "neighbors": neighbors})
    close(*(self_label.run(CachedFeatures(embedded), few, context) for context in (CONTEXT, COMPILED)))
    assert modes == ["default"] * 4 + ["reduce-overhead"]  # query, key, student, teacher, heads
