"""What stands beside an exported classifier: a model card, and how ONNX is run.

No path of the run's machine is in it: what it stands beside may be published.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from spiceclust.config import encoder_kind
from spiceclust.result import Result

_CARD = """\
---
library_name: spiceclust
pipeline_tag: image-classification
tags:
- image-clustering
- unsupervised
- spice
# license: yours to choose, and to write here
---

# Clusters of {n_images:,} images

Sorts images into {n_clusters} clusters. It was made with spiceclust {version} by the method of SPICE (Niu, Shan, Wang,
*IEEE TIP* 2022) from images without labels{corrected}.

## Use

The folder is what `predict` takes for a run:

{use}

## Training

| | |
|---|---|
{training}

What the images show, where they come from and what they may be used for, only you can say here.

## Clusters

| cluster | images | reliable |
|---|---|---|
{clusters}

Reliable is an image whose nearest neighbours are in its cluster.

## Scores

{scores}
"""

_ONNX = """\
# A classifier of {n_clusters} clusters

`model.onnx` takes images (N, {channels}, {size}, {size}) uint8 and returns probabilities (N, {n_clusters}) and
L2-normalised embeddings. Pixels are normalised inside; the rest of the preparation is this, and stands in the file's
metadata too:

```python
import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def prepare(path, size={size}, channels={channels}):
    image = Image.open(path)
    image.draft(None, (2 * size, 2 * size))  # a large JPEG is read at a half, a quarter or an eighth
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    method = Image.Resampling.LANCZOS if side > size else Image.Resampling.BICUBIC
    if side != size:
        image = image.resize((size, size), method, reducing_gap=3.0)
    return np.asarray(image).transpose(2, 0, 1) if channels == 3 else np.asarray(image.convert("L"))[None]


session = onnxruntime.InferenceSession("model.onnx")
probabilities, embeddings = session.run(None, {{"images": np.stack([prepare("photo.jpg")])}})
print(probabilities.argmax(axis=1))
```
"""


# How the folder is used, by kind of encoder; the last one is for what needs no more.
_USE = {
    "timm": """\
    pip install 'spiceclust[timm]'
    spiceclust predict FOLDER SOURCE --out clusters.csv""",
    "embeddings": """\
    pip install spiceclust
    spiceclust predict FOLDER embeddings:FILE.npy --out clusters.csv

It looks at no images: FILE.npy has a row for each, {n_features} floats, by the encoder that made the training's.""",
    "module": """\
    from spiceclust.data.sources import open_source
    from spiceclust.prediction import predict

    predict(Path("FOLDER"), open_source("SOURCE"), own=module)

The encoder is a module whose code is not in this folder, `{name}`; its weights are.""",
    "": """\
    pip install spiceclust
    spiceclust predict FOLDER SOURCE --out clusters.csv""",
}


def card_of(result: Result, kind: str, name: str, n_features: int, learned: bool = False) -> str:
    """A model card as the Hugging Face hub reads it: a YAML header, then what it is, from what, and how good.

    Args:
        result: of the run.
        kind, name, n_features: of the model's encoder, as `models.encoders.Design` has them; never what was asked for,
            which may be a path.
        learned: whether its head learned from a person's corrections.
    """
    config = result.run["config"]
    distinct = [row.status == "ok" for row in result.rows]
    sizes = [
        (cluster, int((result.labels == cluster).sum()), result.reliable[result.labels == cluster])
        for cluster in range(result.n_clusters)
    ]
    there = {
        "read as": f"{config['image_size']} x {config['image_size']} pixels, {config['channels']} channels",
        "network": name,
        "encoder, views": f"{encoder_kind(config['encoder'])}, {config['own_views'] or config['views']}",
    }
    if kind == "embeddings":
        there = {"read as": f"embeddings that were made elsewhere, {n_features} features"}
    training = {
        "distinct images": f"{sum(distinct):,}",
        **there,
        "method, preset, seed": f"{config['method']}, {config['preset']}, {config['seed']}",
    }
    return _CARD.format(
        n_images=sum(distinct),
        n_clusters=result.n_clusters - len(result.merged),
        corrected=(
            ": a cluster has a number and no name"
            if not (learned or result.names or result.merged)
            else ", and corrected by a person: names are theirs"
        ),
        version=result.run["versions"]["spiceclust"],
        use=_USE.get(kind, _USE[""]).format(name=name, n_features=n_features),
        training=_table(training),
        clusters="\n".join(
            f"| {_cell(result, cluster)} | {size:,} | {f'{reliable.mean():.0%}' if size else ''} |"
            for cluster, size, reliable in sizes
            if cluster not in result.merged
        ),
        scores=_scores(result),
    )


def onnx_readme(n_clusters: int, size: int, channels: int) -> str:
    """How the file is run, as code that runs."""
    return _ONNX.format(n_clusters=n_clusters, size=size, channels=channels)


def _cell(result: Result, cluster: int) -> str:
    """A cluster's number and its name, which may not end the cell or begin something else."""
    name = result.names.get(cluster, "")
    return f"{cluster} {''.join(c if c.isalnum() or c in ' -_.,' else f'&#{ord(c)};' for c in name)}".rstrip()


def _scores(result: Result) -> str:
    """Without labels always, with labels if `evaluate` ran."""
    there = result.labels >= 0
    metrics: dict[str, Any] = result.metrics
    without = {
        "mean confidence": f"{np.mean(result.confidence[there]):.3f}",
        "reliable images": f"{np.mean(result.reliable[there]):.3f}",
    }
    if "acc" not in metrics:
        text = "Nobody has compared the clusters with true labels yet; what can be said without them:"
        return f"{text}\n\n| | |\n|---|---|\n{_table(without)}"
    names = {
        "acc": "accuracy, best match of clusters and classes",
        "nmi": "NMI",
        "ari": "ARI",
        "ece": "calibration error",
    }
    compared = {name: f"{metrics[key]:.3f}" for key, name in names.items() if isinstance(metrics.get(key), float)}
    text = f"On the {metrics['n']:,} images of the training that have a true label, which the training did not see:"
    return f"{text}\n\n| | |\n|---|---|\n{_table({**compared, **without})}"


def _table(values: dict[str, str]) -> str:
    return "\n".join(f"| {name} | {value} |" for name, value in values.items())
