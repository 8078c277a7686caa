"""What a person corrects of a result: actions, and what they make of its labels. The result itself is never changed.

n rows of the manifest, C clusters of the result, C' >= C with those that were split off. Copies of an image, rows with
the same content, go together.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from spiceclust.errors import ConfigError
from spiceclust.result import Result

NOWHERE: Final = -2  # label of an image that belongs to no cluster, by a person's word; -1 could not be read
LONGEST_NAME: Final = 80  # characters
DEFAULT_NAME: Final = re.compile(r"cluster[ _]?\d+", re.IGNORECASE)  # of clusters without one, in pages and exports

Number = Annotated[int, Field(ge=0, lt=2**31)]
Rows = Annotated[list[Number], Field(min_length=1)]


class _Action(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Name(_Action):
    """Gives a cluster a name, or takes it away where that is empty."""

    do: Literal["name"] = "name"
    cluster: Number
    name: str


class Merge(_Action):
    """Puts the images of some clusters into another one, which takes over a name if it has none.

    Their numbers are not used again.
    """

    do: Literal["merge"] = "merge"
    clusters: Annotated[list[Number], Field(min_length=1)]
    into: Number


class Split(_Action):
    """Gives some images of a cluster a new one, whose number is the next."""

    do: Literal["split"] = "split"
    cluster: Number
    rows: Rows


class Move(_Action):
    """Places images in a cluster."""

    do: Literal["move"] = "move"
    rows: Rows
    to: Number


class Confirm(_Action):
    """Says that images are right where they are."""

    do: Literal["confirm"] = "confirm"
    rows: Rows


class Nowhere(_Action):
    """Says that images belong to no cluster."""

    do: Literal["nowhere"] = "nowhere"
    rows: Rows


class Learn(_Action):
    """Takes what a head learned from the corrections: other clusters for some images, and its own file, by digest."""

    do: Literal["learn"] = "learn"
    rows: list[Number]
    to: list[Number]
    head: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


Action = Name | Merge | Split | Move | Confirm | Nowhere | Learn
_ACTION: Final[TypeAdapter[Action]] = TypeAdapter(Annotated[Action, Field(discriminator="do")])


def action_of(content: Any) -> Action:
    """The action that a JSON value stands for.

    Raises:
        ConfigError: it stands for none.
    """
    try:
        return _ACTION.validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise ConfigError(f"no such correction: {place}: {first['msg']}") from None


@dataclass(frozen=True)
class State:
    """What the corrections so far make of the result.

    Attributes:
        labels: (n,) int64, the cluster in [0, C'), `NOWHERE`, or -1 for a quarantined row.
        fixed: (n,) bool, True where a person placed or confirmed the image.
        copies: for each row whose content is there more than once, all rows with it.
        n_clusters: C'. Numbers are stable; clusters that were merged away keep theirs, and are empty.
        names: by cluster, where a person gave one.
        merged: into which cluster each of those went that were merged away.
        head: digest of the learned head that is in force; empty for the shipped one.
    """

    labels: NDArray[np.int64]
    fixed: NDArray[np.bool_]
    copies: Mapping[int, tuple[int, ...]]
    n_clusters: int
    names: dict[int, str] = field(default_factory=dict)
    merged: dict[int, int] = field(default_factory=dict)
    head: str = ""

    @property
    def active(self) -> list[int]:
        """The clusters that were not merged away, in order."""
        return [cluster for cluster in range(self.n_clusters) if cluster not in self.merged]

    def with_copies(self, rows: Sequence[int]) -> NDArray[np.int64]:
        """Rows and all copies of them, each once, in order.

        Raises:
            ConfigError: a row that is not there, or could not be read.
        """
        wanted = np.unique(np.asarray(rows, dtype=np.int64))
        if len(wanted) and wanted[-1] >= len(self.labels):
            raise ConfigError(f"there is no image {wanted[-1]}: they count from 0 to {len(self.labels) - 1}")
        if (self.labels[wanted] == -1).any():
            raise ConfigError(f"image {wanted[self.labels[wanted] == -1][0]} could not be read: it is in no cluster")
        others = [self.copies[row] for row in wanted.tolist() if row in self.copies] if self.copies else []
        return np.unique(np.concatenate([wanted, *map(np.array, others)])) if others else wanted


def first_state(result: Result) -> State:
    """The result as it was found."""
    groups = defaultdict(list)
    for i, (row, label) in enumerate(zip(result.rows, result.labels.tolist(), strict=True)):
        if label >= 0:
            groups[row.sha256].append(i)
    copies = {row: tuple(group) for group in groups.values() if len(group) > 1 for row in group}
    return State(kept(result.labels.copy()), kept(np.zeros(len(result.rows), bool)), copies, result.n_clusters)


def applied(state: State, action: Action) -> State:
    """The state after an action.

    Raises:
        ConfigError: the action cannot be: a cluster or image that is not there, a name that is taken, ...
    """
    match action:
        case Name(cluster=cluster, name=name):
            return replace(state, names=_named(state, cluster, name))
        case Merge(clusters=clusters, into=into):
            _refuse_unknown(state, [*clusters, into])
            if into in clusters:
                raise ConfigError(f"cluster {into} cannot be merged into itself")
            labels = np.where(np.isin(state.labels, clusters), into, state.labels)
            names = {cluster: name for cluster, name in state.names.items() if cluster not in clusters}
            if into not in names and (brought := [state.names[each] for each in clusters if each in state.names]):
                names[into] = brought[0]
            merged = {**state.merged, **dict.fromkeys(clusters, into)}
            return replace(state, labels=kept(labels), names=names, merged=merged)
        case Split(cluster=cluster, rows=rows):
            _refuse_unknown(state, [cluster])
            leaving = state.with_copies(rows)
            strange = leaving[state.labels[leaving] != cluster]
            if len(strange):
                raise ConfigError(f"image {strange[0]} is not in cluster {cluster}: it cannot leave it")
            if len(leaving) == (state.labels == cluster).sum():
                raise ConfigError(f"all {len(leaving)} images would leave cluster {cluster}: leave some in it")
            state = replace(state, n_clusters=state.n_clusters + 1)
            return _placed(state, leaving, state.n_clusters - 1, fixed=None)
        case Move(rows=rows, to=to):
            _refuse_unknown(state, [to])
            return _placed(state, state.with_copies(rows), to, fixed=True)
        case Confirm(rows=rows):
            return _placed(state, state.with_copies(rows), None, fixed=True)
        case Nowhere(rows=rows):
            return _placed(state, state.with_copies(rows), NOWHERE, fixed=True)
        case Learn(rows=rows, to=to, head=head):
            _refuse_unknown(state, sorted(set(to)))
            if len(rows) != len(to):
                raise ConfigError(f"{len(rows)} images and {len(to)} clusters for them: give one for each")
            labels = state.labels.copy()
            for cluster in set(to):
                moved = state.with_copies([row for row, each in zip(rows, to, strict=True) if each == cluster])
                if state.fixed[moved].any():
                    raise ConfigError(f"image {moved[state.fixed[moved]][0]} was placed by a person: it stays there")
                labels[moved] = cluster
            return replace(state, labels=kept(labels), head=head)


def _placed(state: State, rows: NDArray[np.int64], to: int | None, fixed: bool | None) -> State:
    labels, placed = state.labels.copy(), state.fixed.copy()
    if to is not None:
        labels[rows] = to
    if fixed is not None:
        placed[rows] = fixed
    return replace(state, labels=kept(labels), fixed=kept(placed))


def _named(state: State, cluster: int, name: str) -> dict[int, str]:
    _refuse_unknown(state, [cluster])
    others = {each: given for each, given in state.names.items() if each != cluster}
    name = unicodedata.normalize("NFC", name).strip()
    if not name:
        return others
    if len(name) > LONGEST_NAME:
        raise ConfigError(f"the name has {len(name)} characters: give at most {LONGEST_NAME}")
    if not name.isprintable():
        raise ConfigError("the name holds characters that cannot be seen: leave them out")
    if DEFAULT_NAME.fullmatch(name):
        raise ConfigError(f"clusters without a name are called like {name!r}: choose another name")
    taken = [each for each, given in others.items() if given.casefold() == name.casefold()]
    if taken:
        raise ConfigError(
            f"cluster {taken[0]} is called {others[taken[0]]!r} already: choose another name, or merge the two"
        )
    return {**others, cluster: name}


def _refuse_unknown(state: State, clusters: Sequence[int]) -> None:
    for cluster in clusters:
        if cluster >= state.n_clusters:
            raise ConfigError(f"there is no cluster {cluster}: they count from 0 to {state.n_clusters - 1}")
        if cluster in state.merged:
            raise ConfigError(f"cluster {cluster} was merged into {state.merged[cluster]}")


def kept(array: NDArray[Any]) -> NDArray[Any]:
    """The array, which cannot be written to any more."""
    array.flags.writeable = False
    return array


def corrected(result: Result, state: State) -> Result:
    """The result with the corrections applied: what an export writes.

    Of a cluster that was merged, or split, or which an image left, the probability goes with the image. An image that
    a person placed is certain and reliable; one that belongs nowhere has the label -1 and no probabilities. The
    metrics are left out: they are of what was found.
    """
    probabilities = carried(result, state, np.ones(len(state.labels), bool))
    labels = np.where(state.labels == NOWHERE, -1, state.labels)
    sure = state.fixed & (labels >= 0)
    probabilities[state.fixed | (labels < 0)] = 0
    probabilities[sure, labels[sure]] = 1
    return replace(
        result,
        labels=labels,
        probabilities=probabilities,
        reliable=np.where(state.fixed, labels >= 0, result.reliable),
        metrics={},
        names=dict(state.names),
        merged=frozenset(state.merged),
    )


def carried(result: Result, state: State, movable: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(n, C') float32: the probabilities of the result, which went along where clusters were merged and images moved.

    Args:
        result, state: as for `corrected`.
        movable: (n,) bool, of which images a move counts.
    """
    n, n_found = result.probabilities.shape
    probabilities = np.zeros((n, state.n_clusters), np.float32)
    probabilities[:, :n_found] = result.probabilities
    for cluster in state.merged:
        into = state.merged[cluster]
        while into in state.merged:
            into = state.merged[into]
        probabilities[:, into] += probabilities[:, cluster]
        probabilities[:, cluster] = 0
    before = probabilities.argmax(axis=1)
    moved = np.flatnonzero(movable & (state.labels >= 0) & (state.labels != before))
    probabilities[moved, state.labels[moved]] += probabilities[moved, before[moved]]
    probabilities[moved, before[moved]] = 0
    return probabilities
