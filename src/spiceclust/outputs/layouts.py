"""What other programs read: where the images lie, and the files beside them that say which cluster each is in.

n images, C clusters.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from spiceclust.files import write_bytes, write_json, write_text
from spiceclust.manifest import Row
from spiceclust.result import Result


class Entry(NamedTuple):
    """One exported image.

    Attributes:
        file: where it is in the export, with `/`; empty when the export holds no images.
        row: what the manifest knows of it.
        cluster: in [0, C).
        confidence: in [0, 1].
        reliable: whether the neighbours agree.
        number: its row of the Result.
    """

    file: str
    row: Row
    cluster: int
    confidence: float
    reliable: bool
    number: int


class Layout(NamedTuple):
    """One form of export.

    Attributes:
        images: folder of an image, in which `{}` stands for its cluster's name; empty when there are no images.
        write: writes the files beside the images.
        hint: how to open it; `{}` stands for the folder.
    """

    images: str
    write: Callable[[Path, Result, Sequence[Entry]], None]
    hint: str


COLUMNS: Final = ("path", "cluster", "confidence", "reliable", "status", "cluster_name")


def write_csv(path: Path, header: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    """Writes a table as UTF-8 text, atomically."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    write_text(path, text.getvalue())


def _folders(folder: Path, result: Result, entries: Sequence[Entry]) -> None:
    names = result.cluster_names
    write_csv(folder / "files.csv", ("file", *COLUMNS), ((entry.file, *_line(entry, names)) for entry in entries))


def _csv_table(folder: Path, result: Result, entries: Sequence[Entry]) -> None:
    names = result.cluster_names
    write_csv(folder / "clusters.csv", COLUMNS, (_line(entry, names) for entry in entries))


def _parquet_table(folder: Path, result: Result, entries: Sequence[Entry]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    chosen = [entry.number for entry in entries]
    rows, names = [entry.row for entry in entries], result.cluster_names
    probabilities = pa.array(result.probabilities[chosen].ravel(), pa.float32())
    table = pa.table(
        {
            "path": pa.array([row.path for row in rows], pa.string()),
            "cluster": pa.array(result.labels[chosen], pa.int32()),
            "confidence": pa.array(result.confidence[chosen], pa.float32()),
            "reliable": pa.array(result.reliable[chosen], pa.bool_()),
            "status": pa.array([row.status for row in rows], pa.string()),
            "cluster_name": pa.array([names[entry.cluster] for entry in entries], pa.string()),
            "typicality": pa.array(result.typicality[chosen], pa.float32()),
            "width": pa.array([row.width for row in rows], pa.int32()),
            "height": pa.array([row.height for row in rows], pa.int32()),
            "sha256": pa.array([row.sha256 for row in rows], pa.string()),
            "probabilities": pa.FixedSizeListArray.from_arrays(probabilities, result.n_clusters),
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink)
    write_bytes(folder / "clusters.parquet", sink.getvalue())


def _imagefolder(folder: Path, result: Result, entries: Sequence[Entry]) -> None:
    """Lines of JSON, which keep their types; all in `train/`, or a photograph named `test.jpg` would make a split."""
    names = result.cluster_names
    lines = [
        {
            "file_name": str(PurePosixPath(entry.file).relative_to("train")),
            "cluster": entry.cluster,
            "cluster_name": names[entry.cluster],
            "confidence": entry.confidence,
            "reliable": entry.reliable,
            "status": entry.row.status,
            "path": entry.row.path,
        }
        for entry in entries
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_text(folder / "train" / "metadata.jsonl", text)


def _coco(folder: Path, result: Result, entries: Sequence[Entry]) -> None:
    """Categories and annotations count from 1, since readers take 0 for background; a box is its whole image."""
    names = result.cluster_names
    images, annotations = [], []
    for number, entry in enumerate(entries, 1):
        width, height = entry.row.width, entry.row.height
        name = PurePosixPath(entry.file).name
        images.append({"id": number, "file_name": name, "width": width, "height": height, "path": entry.row.path})
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": entry.cluster + 1,
                "bbox": [0, 0, width, height],
                "area": width * height,
                "segmentation": [],
                "iscrowd": 0,
                "score": entry.confidence,
                "attributes": {"reliable": entry.reliable},
            }
        )
    categories = [
        {"id": i + 1, "name": name, "supercategory": "cluster"}
        for i, name in enumerate(names)
        if i not in result.merged
    ]
    info = {
        "description": f"{len(entries)} images in {len(categories)} clusters, by spiceclust; boxes are whole images"
    }
    content = {"info": info, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
    write_json(folder / "annotations.json", content)


def _labelstudio(folder: Path, result: Result, entries: Sequence[Entry]) -> None:
    """Tasks with a prediction each, and the labelling set-up that their names refer to."""
    names = result.cluster_names
    tasks = [
        {
            "data": {"image": f"/data/local-files/?d={quote(entry.file)}", "path": entry.row.path},
            "predictions": [
                {
                    "model_version": "spiceclust",
                    "score": entry.confidence,
                    "result": [
                        {
                            "id": "cluster",
                            "from_name": "cluster",
                            "to_name": "image",
                            "type": "choices",
                            "value": {"choices": [names[entry.cluster]]},
                        }
                    ],
                }
            ],
        }
        for entry in entries
    ]
    write_text(folder / "tasks.json", json.dumps(tasks, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    shown = [name for cluster, name in enumerate(names) if cluster not in result.merged]
    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in shown)
    write_text(
        folder / "config.xml",
        '<View>\n  <Image name="image" value="$image"/>\n  <Choices name="cluster" toName="image" choice="single">\n'
        f"{choices}\n  </Choices>\n</View>\n",
    )


def _fiftyone(folder: Path, result: Result, entries: Sequence[Entry]) -> None:
    """The layout of a FiftyOneImageClassificationDataset; its keys are the names in `data/` without their suffix."""
    labels = {
        PurePosixPath(entry.file).stem: {
            "label": entry.cluster,
            "confidence": entry.confidence,
            "attributes": {"reliable": entry.reliable, "status": entry.row.status, "path": entry.row.path},
        }
        for entry in entries
    }
    write_json(folder / "labels.json", {"classes": result.cluster_names, "labels": labels})


def _line(entry: Entry, names: Sequence[str]) -> tuple[str, int, str, str, str, str]:
    """Of `COLUMNS`."""
    reliable = "true" if entry.reliable else "false"
    confidence = f"{entry.confidence:.6f}"
    return entry.row.path, entry.cluster, confidence, reliable, entry.row.status, names[entry.cluster]


LAYOUTS: Final = {
    "folders": Layout("{}", _folders, "torchvision.datasets.ImageFolder('{}')"),
    "csv": Layout("", _csv_table, "pandas.read_csv('{}/clusters.csv')"),
    "parquet": Layout("", _parquet_table, "pyarrow.parquet.read_table('{}/clusters.parquet')"),
    "imagefolder": Layout("train/{}", _imagefolder, "datasets.load_dataset('imagefolder', data_dir='{}')"),
    "coco": Layout("images", _coco, "torchvision.datasets.CocoDetection('{0}/images', '{0}/annotations.json')"),
    "labelstudio": Layout(
        "images",
        _labelstudio,
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT='{0}' label-studio; add "
        "'{0}/images' as local storage, config.xml as the labelling set-up, and import tasks.json",
    ),
    "fiftyone": Layout(
        "data",
        _fiftyone,
        "fiftyone.Dataset.from_dir('{}', dataset_type=fiftyone.types.FiftyOneImageClassificationDataset)",
    ),
}
