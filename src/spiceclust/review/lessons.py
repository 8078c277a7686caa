"""What is learned from corrections, which images to ask about, and what the answers say: for one run under review."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from spiceclust.corrections import NOWHERE, Action, Confirm, Learn, Move, Nowhere, Split, State, applied, corrected
from spiceclust.corrections import first_state as state_of
from spiceclust.errors import ConfigError, RunFolderError
from spiceclust.files import sha256_bytes, sync_folder, write_bytes
from spiceclust.journal import head_file
from spiceclust.result import Result
from spiceclust.review.embeddings import Embeddings
from spiceclust.review.ledger import Ledger, Now
from spiceclust.review.purity import Frame, Purity, leave_out, open_frame, purity, shuffled, still_holds

if TYPE_CHECKING:
    from spiceclust.review.learning import Proposal

MOST_FRAMES: Final = 20  # that are kept, in case that what ended one is taken back


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    row: Annotated[int, Field(ge=0, lt=2**31)]
    cluster: Annotated[int, Field(ge=NOWHERE, lt=2**31)] | None


_ANSWERS: Final = TypeAdapter(Annotated[list[_Answer], Field(min_length=1)])


class _Offer(NamedTuple):
    """What was learned and waits to be accepted."""

    version: int
    digest: str
    head: bytes
    proposal: Proposal


class _Batch(NamedTuple):
    """Questions that were asked."""

    version: int
    name: str
    rows: list[int]
    random: list[bool]
    frame: Frame


class Lessons:
    """For any number of threads; what takes long is done one at a time, while corrections go on.

    Args:
        run: its folder.
        result: what was found.
        ledger: the corrections.
        embeddings: of the run.
    """

    def __init__(self, run: Path, result: Result, ledger: Ledger, embeddings: Embeddings) -> None:
        self._run, self._result, self._ledger, self._embeddings = run, result, ledger, embeddings
        self._lock = threading.Lock()
        self._offer: _Offer | None = None
        self._batch: _Batch | None = None
        self._learned = ("", np.empty((0, 0), np.float32))  # digest of a head, and what it says
        self._order = shuffled(result)
        self._frames = _frames(result, ledger.now().actions, self._order)
        self._asked = 0

    def learn(self) -> dict[str, Any]:
        """What would change, if it were learned from the corrections so far; it is kept until the next call.

        Raises:
            ConfigError: there is nothing to learn from.
            RunFolderError: the embeddings are not there.
        """
        from safetensors.torch import save

        from spiceclust.review.learning import by_learning, learn

        with self._lock:
            now, vectors = self._ledger.now(), self._embeddings.all()
            proposal = learn(self._result, now.state, vectors, by_learning(now.actions, len(self._result.rows)))
            head = save({name: tensor.contiguous() for name, tensor in proposal.head.items()})
            digest = sha256_bytes(head)
            self._offer = _Offer(now.version, digest, head, proposal)
        return {
            "rows": proposal.rows.tolist(),
            "from": proposal.now.tolist(),
            "to": proposal.to.tolist(),
            "head": digest,
            "n_changed": len(proposal.rows),
            "seconds": round(proposal.seconds, 2),
        }

    def accept(self, digest: Any) -> None:
        """Makes what was learned count, and keeps its head in the run.

        Raises:
            ConfigError: it is not what was learned last, or something was corrected since.
            RunFolderError: it cannot be written.
        """
        with self._lock:
            offer = self._offer
            if offer is None or digest != offer.digest:
                raise ConfigError("this is not what was learned last: learn again")
            action = Learn(rows=offer.proposal.rows.tolist(), to=offer.proposal.to.tolist(), head=digest)
            self._ledger.do(action, since=offer.version, before=lambda: self._keep(offer))
            self._learned = (digest, offer.proposal.probabilities)
            self._offer = None

    def questions(self) -> dict[str, Any]:
        """The images whose answer helps most, and some at random; the same ones until something changes.

        Raises:
            RunFolderError: the embeddings are not there.
        """
        from spiceclust.review.questions import choose

        with self._lock:
            now = self._ledger.now()
            batch = self._batch
            if batch is None or batch.version != now.version:
                frame = self._frame(now.state)
                asked = choose(frame, now.state, self._said(now), self._embeddings.all(), self._embeddings.index)
                self._asked += 1
                batch = self._batch = _Batch(now.version, str(self._asked), asked.rows, asked.random, frame)
        return {"batch": batch.name, "rows": batch.rows, "random": batch.random}

    def answer(self, name: Any, answers: Any) -> dict[str, Any]:
        """Takes answers to the last questions, and says what they tell of how pure the clusters are.

        Raises:
            ConfigError: they are no answers to these questions, or something was corrected since these were asked.
            RunFolderError: they cannot be written.
        """
        try:
            given = {answer.row: answer.cluster for answer in _ANSWERS.validate_python(answers)}
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(f"answers: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        with self._lock:
            batch = self._batch
            if batch is None or name != batch.name:
                raise ConfigError("these questions are not open any more: ask again")
            strange = sorted(given.keys() - batch.rows)
            if strange:
                raise ConfigError(f"image {strange[0]} was not asked about")
            state = self._ledger.now().state
            self._ledger.do(*_actions(given, state), since=batch.version)
            skipped = [row for row, cluster in given.items() if cluster is None]
            frame = self._replaced(batch.frame, leave_out(batch.frame, skipped)) if skipped else batch.frame
            self._batch = None
            found, each = purity(frame, self._ledger.now().state)
        return {**_told(found), "clusters": [{"cluster": cluster, **_told(one)} for cluster, one in each.items()]}

    def _keep(self, offer: _Offer) -> None:
        file = head_file(self._run, offer.digest)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"{file.parent} cannot be made ({error.strerror}): free it and try again") from None
        write_bytes(file, offer.head)
        sync_folder(file.parent)
        sync_folder(file.parent.parent)

    def _said(self, now: Now) -> NDArray[np.float32]:
        """(n, C') probabilities by the head in force, or, where it is of an earlier review, as the labels have them."""
        digest, probabilities = self._learned
        if not digest or now.state.head != digest:
            return corrected(self._result, now.state).probabilities
        more = now.state.n_clusters - probabilities.shape[1]  # split off since
        return np.pad(probabilities, ((0, 0), (0, max(0, more))))

    def _frame(self, state: State) -> Frame:
        """The one that holds, which may be one from before something was done and taken back; or a new one."""
        for frame in reversed(self._frames):
            if still_holds(frame, state):
                return frame
        self._frames = [*self._frames[1 - MOST_FRAMES :], open_frame(state, self._order)]
        return self._frames[-1]

    def _replaced(self, old: Frame, new: Frame) -> Frame:
        self._frames = [new if frame is old else frame for frame in self._frames]
        return new


def _frames(result: Result, actions: list[Action], order: NDArray[np.int64]) -> list[Frame]:
    """Those that earlier reviews began: at first, and wherever clusters changed otherwise than image by image."""
    state = state_of(result)
    frames = [open_frame(state, order)]
    for action in actions:
        state = applied(state, action)
        if isinstance(action, Learn | Split):
            frames.append(open_frame(state, order))
    return frames[-MOST_FRAMES:]


def _actions(given: dict[int, int | None], state: State) -> list[Action]:
    """What answers ask for: images stay where they are, go elsewhere, or nowhere."""
    stay = [row for row, cluster in given.items() if cluster is not None and state.labels[row] == cluster != NOWHERE]
    nowhere = [row for row, cluster in given.items() if cluster == NOWHERE]
    places: dict[int, list[int]] = {}
    for row, cluster in given.items():
        if cluster == -1:
            raise ConfigError("there is no cluster -1")
        if cluster is not None and cluster != NOWHERE and state.labels[row] != cluster:
            places.setdefault(cluster, []).append(row)
    moves: list[Action] = [Move(rows=rows, to=cluster) for cluster, rows in sorted(places.items())]
    return [
        *([Confirm(rows=stay)] if stay else []),
        *moves,
        *([Nowhere(rows=nowhere)] if nowhere else []),
    ]


def _told(found: Purity) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in found._asdict().items()}
