"""Learning from corrections: a head that knows them, and what it would change.

Answers spread over the neighbour graph of the shipped classifier's embeddings (`functional.diffusion`): an image
changes where the graph says so, and answers speak for it more than for the cluster that it was in. A head learns what
the graph says, with the answers as fixed labels and pairs of images as constraints. Each learning begins from the
result, not from what was learned before, so that the same corrections give the same head, in whatever steps. n rows of
the manifest, N distinct images with a cluster, D features, C clusters of the result, C' >= C with those that were split
off.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from spiceclust.corrections import Action, Confirm, Learn, Move, Nowhere, Split, State, carried
from spiceclust.data.wording import counted
from spiceclust.errors import ConfigError
from spiceclust.functional.diffusion import Spread, Trust, extend, softened, spread, transitions
from spiceclust.functional.links import link_loss
from spiceclust.models.heads import ClusterHeads
from spiceclust.result import Result
from spiceclust.training.lanes import one_thread
from spiceclust.training.loop import cosine

NODES: Final = 3000  # of the graph: all pairs of them are compared, and others with each
ANSWERED: Final = 1000  # of these at the most that are answered
STEPS, BATCH = 600, 256
ANSWERS_IN_BATCH: Final = 64
LINK_WEIGHT: Final = 0.3
RATE: Final = 0.01
OUT: Final = -1e4  # bias of a cluster that was merged away: no image falls into it
AT_ONCE: Final = 2048  # images that are compared with the nodes, or go through the head, together


@dataclass(frozen=True)
class Proposal:
    """What would change, and the head that says so.

    Attributes:
        rows: (R,) int64, ascending rows of the manifest that would change; copies are left to `State.with_copies`.
        now, to: (R,) int64, the clusters that they are in, and those that they would go to.
        labels: (n,) int64, as in a `State`, with the changes.
        probabilities: (n, C') float32, what the head says; 1 for the cluster of an image that a person placed, zeros
            where an image has none.
        head: weights of an MLP D -> D -> C', as `models.heads.build_head` makes it, for the encoder that is shipped.
        prior: weight of a present label beside an answer's 1, which the answers chose (`functional.diffusion`).
        seconds: how long it took.
    """

    rows: NDArray[np.int64]
    now: NDArray[np.int64]
    to: NDArray[np.int64]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    head: dict[str, Tensor]
    prior: float
    seconds: float


class _Task(NamedTuple):
    """What is known of the N images.

    Attributes:
        embeddings: (N, D) float32.
        beliefs: (N, C') float32, what present labels say.
        before: (N,) int64, labels of the result.
        base: (N,) int64, with its merges and splits.
        labels: (N,) int64, with all corrections, and what was learned.
        fixed: (N,) bool, where a person placed them.
        reliable: (N,) bool, of the result.
    """

    embeddings: Tensor
    beliefs: Tensor
    before: Tensor
    base: Tensor
    labels: Tensor
    fixed: Tensor
    reliable: Tensor


def by_learning(actions: Iterable[Action], n: int) -> NDArray[np.bool_]:
    """(n,) bool: the rows whose cluster an earlier learning chose, and no person since.

    Args:
        actions: those in force, from the first on.
        n: rows of the manifest.
    """
    learned = np.zeros(n, dtype=bool)
    for action in actions:
        if isinstance(action, Learn | Split | Move | Confirm | Nowhere):
            learned[action.rows] = isinstance(action, Learn)
    return learned


@one_thread()
def learn(
    result: Result, state: State, embeddings: NDArray[np.floating], learned: NDArray[np.bool_], seed: int = 0
) -> Proposal:
    """Learns from all corrections so far.

    Args:
        result: what was found.
        state: what the corrections make of it.
        embeddings: (N, D), L2-normalised, by the shipped encoder, of the rows with the status `ok` in their order.
        learned: (n,) bool, of `by_learning`.
        seed: of the heads.

    Raises:
        ConfigError: there is nothing to learn from.
    """
    start = time.perf_counter()
    if not (state.fixed & (state.labels >= 0)).any() and not state.merged and state.n_clusters == result.n_clusters:
        raise ConfigError("there is nothing to learn from yet: move or confirm some images, or answer questions")
    ok = np.array([row.status == "ok" for row in result.rows])
    rows = np.flatnonzero(ok & (state.labels >= 0))
    if len(rows) < 2:
        raise ConfigError(f"{counted(len(rows), 'different image')} in all clusters: two are needed to learn")
    beliefs = softened(torch.from_numpy(carried(result, state, ~state.fixed & ~learned)[rows]))
    places = np.flatnonzero(state.labels[ok] >= 0)
    points = torch.empty((len(places), embeddings.shape[1]))
    np.copyto(points.numpy(), embeddings if len(places) == len(embeddings) else embeddings[places])
    task = _Task(
        F.normalize(points, dim=1, out=points),
        beliefs,
        torch.from_numpy(result.labels[rows]),
        beliefs.argmax(dim=1),
        torch.from_numpy(state.labels[rows]),
        torch.from_numpy(state.fixed[rows]),
        torch.from_numpy(result.reliable[rows]),
    )
    found, trust = _spread(task)
    mass = found.answers + found.present
    shares = mass / mass.sum(dim=1, keepdim=True)
    to = shares.argmax(dim=1)
    to = torch.where(_backed(found.answers, to, task.base), to, task.base)
    to = torch.where(task.fixed, task.labels, to)
    targets = shares.square() / shares.square().sum(dim=1, keepdim=True)
    targets[task.fixed] = F.one_hot(task.labels[task.fixed], targets.shape[1]).float()
    heads = _train(task, targets, list(state.merged), seed)
    with torch.inference_mode():
        said = torch.cat([heads(part)[0].softmax(dim=1) for part in task.embeddings.split(AT_ONCE)])  # type: ignore[no-untyped-call]

    changes = (to != task.labels).numpy()
    changed = rows[changes]
    labels = state.labels.copy()
    labels[changed] = to.numpy()[changes]
    probabilities = np.zeros((len(ok), state.n_clusters), dtype=np.float32)
    probabilities[rows] = torch.where(task.fixed.unsqueeze(1), targets, said).numpy()
    return Proposal(
        rows=changed,
        now=state.labels[changed],
        to=labels[changed],
        labels=labels,
        probabilities=probabilities,
        head=dict(heads.extract(0).state_dict()),
        prior=trust.prior,
        seconds=time.perf_counter() - start,
    )


def _spread(task: _Task) -> tuple[Spread, Trust]:
    """What answers and present labels make of all N images, by way of up to 3,000 nodes: answered ones first."""
    answered = _thinned(task.fixed.nonzero().squeeze(1), ANSWERED)
    rest = _thinned((~task.fixed).nonzero().squeeze(1), NODES - len(answered))
    chosen = torch.cat([answered, rest])
    nodes, beliefs = task.embeddings[chosen], task.beliefs[chosen]
    at_nodes, trust = spread(transitions(nodes), beliefs, torch.arange(len(answered)), task.labels[answered])
    whole = Spread(*(torch.zeros_like(task.beliefs) for _ in at_nodes))
    for all_of, some in zip(whole, at_nodes, strict=True):
        all_of[chosen] = some
    others = torch.ones(len(task.labels), dtype=torch.bool).index_fill(0, chosen, False).nonzero().squeeze(1)
    for part in torch.split(others, AT_ONCE):
        found = extend(at_nodes, nodes, task.embeddings[part], task.beliefs[part], trust.prior)
        for all_of, some in zip(whole, found, strict=True):
            all_of[part] = some
    return whole, trust


def _thinned(numbers: Tensor, most: int) -> Tensor:
    """At most so many of some numbers, evenly spread over their order."""
    return numbers[torch.linspace(0, len(numbers) - 1, min(most, len(numbers))).round().long()]


def _backed(answers: Tensor, to: Tensor, now: Tensor) -> Tensor:
    """(N,) bool: whether answers (N, C') speak more for one cluster than for the other."""
    said = answers.gather(1, torch.stack([to, now], dim=1))
    return said[:, 0] > said[:, 1]


def _train(task: _Task, targets: Tensor, retired: list[int], seed: int) -> ClusterHeads:
    """A head that learns the targets, the answers, and which images belong together."""
    generator = torch.Generator().manual_seed(seed)
    heads = ClusterHeads(1, task.embeddings.shape[1], targets.shape[1], seed)
    out = torch.zeros(targets.shape[1]).index_fill(0, torch.tensor(retired, dtype=torch.int64), OUT)
    answered = task.fixed.nonzero().squeeze(1)
    weights = task.labels[answered].bincount()[task.labels[answered]].float().rsqrt()
    n_answers = ANSWERS_IN_BATCH if len(answered) else 0
    optimizer = torch.optim.Adam(heads.parameters(), lr=RATE)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * cosine(step, STEPS, 0)
        some = torch.randint(len(targets), (BATCH,), generator=generator)
        if n_answers:
            some[:n_answers] = answered[weights.multinomial(n_answers, replacement=True, generator=generator)]
        logits = heads(task.embeddings[some]) + out
        learned = -(targets[some] * logits.log_softmax(dim=2)).sum(dim=2).mean(dim=1)
        groups = (torch.randperm(n, generator=generator) for n in (n_answers, BATCH - n_answers))
        partners = torch.cat([next(groups), n_answers + next(groups)])
        links = link_loss(logits, *_pairs(task, some, partners))
        optimizer.zero_grad(set_to_none=True)
        (learned + LINK_WEIGHT * links).sum().backward()
        optimizer.step()
    with torch.no_grad():
        heads.bias2.add_(out)
    return heads


def _pairs(task: _Task, some: Tensor, partners: Tensor) -> tuple[Tensor, Tensor]:
    """Of a batch (B,) and a partner for each, by its place: pairs (P, 2) that a person decided on, and how (P,).

    Decided are pairs of images that a person placed, and pairs of reliable ones that splits or merges parted or brought
    together. A single image that was moved is not parted from those it leaves: they may be as wrong as it was.
    """
    one, other = some, some[partners]

    def same(labels: Tensor) -> Tensor:
        return labels[one] == labels[other]

    placed = task.fixed[one] & task.fixed[other]
    regrouped = (same(task.base) != same(task.before)) & task.reliable[one] & task.reliable[other]
    decided = (placed | regrouped) & (one != other)
    together = torch.where(placed, same(task.labels), same(task.base))
    return torch.stack([torch.arange(len(some)), partners], dim=1)[decided], together[decided]
