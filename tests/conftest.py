import importlib
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType

import hypothesis
import numpy as np
import pytest
import torch

from spiceclust.manifest import Row, Status
from spiceclust.result import Result

hypothesis.settings.register_profile("ci", deadline=None)
hypothesis.settings.load_profile("ci")

# torchvision, which tests read with, looks for two operators of its own that its wheel lacks beside a torch for CPUs
TORCHVISION = torch.library.Library("torchvision", "DEF")
TORCHVISION.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
TORCHVISION.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

MakeResult = Callable[..., Result]


@pytest.fixture
def make_result() -> MakeResult:
    """A Result from the few facts a test cares about; what it leaves out is reliable, and drawn from a fixed seed."""

    def make(
        labels: Sequence[int],
        n_clusters: int,
        *,
        confidence: Sequence[float] | None = None,
        typicality: Sequence[float] | None = None,
        reliable: Sequence[bool] | None = None,
        status: dict[int, Status] | None = None,
    ) -> Result:
        n, numbers = len(labels), np.random.default_rng(0)
        sure = np.asarray(numbers.uniform(0.6, 1, n) if confidence is None else confidence, dtype=np.float32)
        given = np.asarray(labels, dtype=np.int64)
        probabilities = np.repeat((1 - sure[:, None]) / max(n_clusters - 1, 1), n_clusters, axis=1).astype(np.float32)
        probabilities[np.arange(n), given] = sure
        probabilities[given < 0] = 0
        statuses = {i: (status or {}).get(i, "quarantined" if label < 0 else "ok") for i, label in enumerate(labels)}
        reasons = {"ok": "", "quarantined": "empty file", "duplicate": "same content as 0.png"}
        return Result(
            rows=[Row(f"{i}.png", statuses[i], reasons[statuses[i]], 8, 8, f"{i:064x}") for i in range(n)],
            labels=given,
            probabilities=probabilities,
            reliable=np.ones(n, dtype=bool) if reliable is None else np.asarray(reliable, dtype=bool),
            typicality=np.asarray(numbers.uniform(-1, 1, n) if typicality is None else typicality, dtype=np.float32),
            run={"seed": 0, "config": {"n_clusters": n_clusters}},
            metrics={"5-semi": {"agreement": 0.5}},
        )

    return make


@pytest.fixture(scope="session")
def timm() -> Iterator[ModuleType]:
    """timm, which imports torchvision: a wheel that misses its operators beside a torch built for the CPU alone.

    Two schemas are all that this import asks for, and timm uses none of the operators.
    """
    import torch

    declared = None
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        declared = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            declared.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    yield importlib.import_module("timm")
    del declared
