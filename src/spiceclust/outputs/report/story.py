"""How a run came to its clusters, in words and numbers: read from run.json, metrics.json and the stage folders.

Runs of other methods, and of other versions, say more or less: what one does not say is left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from spiceclust.errors import RunFolderError
from spiceclust.files import read_json
from spiceclust.progress import clock
from spiceclust.result import Result

CLUSTERINGS: Final = {
    "prototypes": "prototypes with equal quotas",
    "cuts": "cuts of the neighbour graph",
    "neighbors": "neighbours that belong together",
}
STAGES: Final = {
    "1-pretrain": "1 · features",
    "2-embed": "2 · embeddings",
    "3-self": "3 · clustering heads",
    "4-select": "4 · reliable labels",
    "5-semi": "5 · retraining",
}


def choices(result: Result) -> list[tuple[str, str]]:
    """What was decided, and why: a heading and a sentence each."""
    run, metrics = result.run, result.metrics
    config = _facts(run, "config")
    told = {
        "Features": _features(config),
        "Views": _views(run, config),
        "Clustering": _clustering(run.get("clustering"), metrics),
        "What ships": _shipped(run, metrics),
        "Reliable": _reliable(_facts(metrics, "reliable")),
        "Confidence": _confidence(_facts(metrics, "calibration")),
        "Run": _how(run, config),
    }
    return [(heading, sentence) for heading, sentence in told.items() if sentence]


def scores(result: Result) -> dict[str, Any]:
    """Label-free scores per stage: `columns`, the clusterings that went on, and `rows` of a stage, a score, its texts.

    A score's texts have the order of the columns; `shipped` is the number of the column that ships, or None.
    """
    metrics = result.metrics
    heads, selected, tuned, guard = (_facts(metrics, name) for name in ("3-self", "4-select", "5-semi", "guard"))
    names = [name for name, facts in heads.items() if isinstance(facts, dict)]
    together = _facts(guard, "together")
    table = [
        ("3-self", "neighbours together, clusters even", _each(names, heads, "partition_score", "{:.2f}")),
        ("3-self", "neighbours that agree, kept head", [_kept(_facts(heads, name)) for name in names]),
        ("4-select", "reliable images", _each(names, selected, "share", "{:.1%}")),
        ("4-select", "neighbours asked", _each(names, selected, "neighbors", "{}")),
        ("5-semi", "unlabelled images that teach in the end", _each(names, tuned, "used", "{:.1%}")),
        ("guard", "labels of stage 3, judged by neighbours", _guard(names, guard, "3-self")),
        ("guard", "labels of stage 5, judged by neighbours", _guard(names, guard, "5-semi")),
        ("guard", "heads that agree", _each(names, guard, "agreement", "{:.1%}")),
        ("guard", "all of it together", [_text(together.get(name), "{:.2f}") for name in names]),
    ]
    shipped = result.run.get("clustering")
    return {
        "columns": [CLUSTERINGS.get(name, name) for name in names],
        "shipped": names.index(shipped) if shipped in names else None,
        "rows": [(STAGES.get(stage, "choice"), what, texts) for stage, what, texts in table if any(texts)],
    }


def heads(result: Result) -> list[dict[str, Any]]:
    """For each clustering that went on: share of agreeing neighbours of each head's labels, and which head was kept."""
    return [
        {"name": CLUSTERINGS.get(name, name), "values": facts["consistency"], "kept": facts.get("kept")}
        for name, facts in _facts(result.metrics, "3-self").items()
        if isinstance(facts, dict) and facts.get("consistency")
    ]


def curves(folder: Path) -> list[dict[str, Any]]:
    """The loss of every training, from the facts of the stages: `stage`, `name` (may be empty), `values`.

    Stage folders that were removed, or cannot be read, have none.
    """
    found = []
    for stage, title in STAGES.items():
        try:
            facts = read_json(folder / stage / "facts.json")
        except RunFolderError:
            continue
        trainings = {"": facts} | {name: each for name, each in facts.items() if isinstance(each, dict)}
        found += [
            {"stage": title, "name": CLUSTERINGS.get(name, name), "values": each["loss"]}
            for name, each in trainings.items()
            if each.get("loss")
        ]
    return found


def truth(result: Result) -> dict[str, Any] | None:
    """What `evaluate` found; None before it ran. `rows` are the clusters, in the order of the classes they match."""
    metrics = result.metrics
    if "acc" not in metrics:
        return None
    match, counts = _facts(metrics, "match"), _facts(metrics, "confusion")
    classes = sorted({name for row in counts.values() for name in row}, key=_natural)
    number = {name: i for i, name in enumerate(classes)}
    matched = {cluster: number[match[cluster]] if cluster in match else None for cluster in counts}
    last = len(classes)
    order = sorted(counts, key=lambda cluster: (last if matched[cluster] is None else matched[cluster], int(cluster)))
    return {
        "scores": {name: metrics.get(name) for name in ("acc", "nmi", "ari", "ece", "reliable_precision", "n")},
        "classes": classes,
        "rows": [
            {
                "cluster": int(cluster),
                "match": matched[cluster],
                "counts": {number[name]: count for name, count in counts[cluster].items()},
            }
            for cluster in order
        ],
    }


def _features(config: dict[str, Any]) -> str:
    encoder, side = config.get("encoder", ""), config.get("image_size")
    if not encoder:
        return ""
    if encoder.startswith("embeddings:"):
        return f"given as {encoder}"
    seen = f"{side} px, {'grey' if config.get('channels') == 1 else 'colour'}"
    learned = f"learned from these images by {config.get('backbone')}"
    return f"{learned if encoder == 'moco' else f'given by {encoder}'}, {seen}"


def _views(run: dict[str, Any], config: dict[str, Any]) -> str:
    chosen = config.get("own_views") or config.get("views")
    if str(config.get("encoder")).startswith("embeddings:"):
        chosen = None  # there are none, whatever was asked for
    return ", ".join(filter(None, (chosen, run.get("views"))))


def _clustering(chosen: str | None, metrics: dict[str, Any]) -> str:
    together = _facts(_facts(metrics, "guard"), "together")
    if chosen is None or chosen not in together:
        return ""
    told = {name: f"{score:.2f}" for name, score in together.items()}
    others = [name for name in told if name != chosen]
    parts = [f"{CLUSTERINGS.get(chosen, chosen)} ({told[chosen]})"]
    for how, level in (("level with", True), ("ahead of", False)):
        some = [
            f"{CLUSTERINGS.get(name, name)} ({told[name]})" for name in others if (told[name] == told[chosen]) == level
        ]
        if some:
            parts.append(f"{how} {' and '.join(some)}")
    return ", ".join(parts) + (": few neighbours parted, few doubts, heads that agree" if others else "")


def _shipped(run: dict[str, Any], metrics: dict[str, Any]) -> str:
    shipped, skipped = run.get("shipped"), _facts(run, "skipped")
    if not shipped:
        return ""
    what = {"3-self": "the head of stage 3", "5-semi": "the classifier retrained in stage 5"}.get(shipped, str(shipped))
    judged = _facts(_facts(_facts(metrics, "guard"), str(run.get("clustering"))), "scores")
    if skipped:
        return f"{what}; " + "; ".join(f"stage {stage[0]} {why}" for stage, why in skipped.items())
    others = [score for stage, score in judged.items() if stage != shipped]
    if shipped not in judged or not others:
        return what
    return f"{what}: neighbours give its labels {judged[shipped]:.2f}, and those of the other {others[0]:.2f}"


def _reliable(facts: dict[str, Any]) -> str:
    if "share" not in facts:
        return ""
    return f"{facts['share']:.0%} of the images: their {facts.get('neighbors')} nearest neighbours agree with the label"


def _confidence(facts: dict[str, Any]) -> str:
    if "temperature" not in facts:
        return ""
    before, after = facts.get("confidence_before", 0), facts.get("confidence_after", 0)
    return f"{after:.2f} on average, {before:.2f} before it was calibrated (temperature {facts['temperature']:.2f})"


def _how(run: dict[str, Any], config: dict[str, Any]) -> str:
    version = _facts(run, "versions").get("spiceclust")
    took = sum(_facts(run, "seconds").values())
    parts = [
        f"method {config['method']}" if "method" in config else "",
        f"preset {config['preset']}" if "preset" in config else "",
        f"seed {run['seed']}" if "seed" in run else "",
        f"on {run['device']}" if "device" in run else "",
        f"stages took {clock(took)}" if took else "",
        f"spiceclust {version}" if version else "",
    ]
    return ", ".join(filter(None, parts))


def _each(names: list[str], facts: dict[str, Any], key: str, form: str) -> list[str]:
    return [_text(_facts(facts, name).get(key), form) for name in names]


def _guard(names: list[str], facts: dict[str, Any], stage: str) -> list[str]:
    return [_text(_facts(_facts(facts, name), "scores").get(stage), "{:.2f}") for name in names]


def _kept(facts: dict[str, Any]) -> str:
    values, kept = facts.get("consistency", []), facts.get("kept")
    return _text(values[kept] if kept is not None and kept < len(values) else None, "{:.1%}")


def _text(value: Any, form: str) -> str:
    return "" if value is None else form.format(value)


def _facts(found: dict[str, Any], name: str) -> dict[str, Any]:
    """What stands under a name, empty where that is missing or, in an old run, no group of facts."""
    facts = found.get(name)
    return facts if isinstance(facts, dict) else {}


def _natural(name: str) -> tuple[bool, int, str]:
    """Numbers by size, before words by alphabet."""
    return (not name.isdecimal(), int(name) if name.isdecimal() else 0, name)
