"""A training that is cut off and taken up again ends as if it had never stopped."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from spiceclust import interruption
from spiceclust.errors import NewerFormatError, RunFolderError, TrainingError
from spiceclust.files import read_sealed, write_sealed
from spiceclust.progress import Task
from spiceclust.training import snapshots
from spiceclust.training.context import Context
from spiceclust.training.loop import train
from spiceclust.training.snapshots import Kept, OptimizerState, Snapshots

CPU = torch.device("cpu")
CONTEXT = Context(0, CPU, bf16=False)
STEPS = 450  # of which the loss curve keeps a mean of three


class Cut(BaseException):
    """What ends a training: no error that anything would handle."""


@pytest.fixture(autouse=True)
def at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "SECONDS", -1.0)
    monkeypatch.setattr(snapshots, "SHARE", float("inf"))


def kept_in(folder: Path, key: str = "k") -> Context:
    return replace(CONTEXT, snapshots=Snapshots(folder, key, CPU))


def trained(
    context: Context, *, cut: int = -1, optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam
) -> dict[str, Tensor]:
    """A small training whose steps depend on everything that it keeps; all of it, and the loss curve."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = nn.Sequential(convolution, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 1))
    memory = torch.zeros(5)

    def step(number: int) -> Tensor:
        if number == cut:
            raise Cut
        inputs = torch.randn((8, 3, 4, 4), generator=context.generator("x", number))
        memory[number % 5] = memory.mean() * 0.5 + number / STEPS
        loss: Tensor = (model(inputs) - memory.sum()).square().mean()
        return loss

    curve = train(
        step,
        steps=STEPS,
        optimizer=optimizer(model.parameters(), lr=0.01),
        rate=lambda number: 1 - number / STEPS,
        state={"model": model, "memory": Kept(memory=memory)},
        name="1 something (new)",
        part="new",
        context=context,
    )
    return {**model.state_dict(), "memory": memory, "curve": torch.tensor(curve)}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def momentum(parameters: Iterator[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9, nesterov=True, weight_decay=0.01, fused=True)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, momentum])
@pytest.mark.parametrize("cuts", [(1,), (2,), (449,), (7, 8, 9, 200), (0, 0, 300)])
def test_what_was_cut_off_ends_as_if_it_had_not_been(
    cuts: tuple[int, ...], optimizer: Callable[..., torch.optim.Optimizer], tmp_path: Path
) -> None:
    unbroken = trained(CONTEXT, optimizer=optimizer)
    for cut in cuts:
        with pytest.raises(Cut):
            trained(kept_in(tmp_path), cut=cut, optimizer=optimizer)
    assert_same(trained(kept_in(tmp_path), optimizer=optimizer), unbroken)


def test_it_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    with pytest.raises(Cut):
        trained(kept_in(tmp_path), cut=300)
    with pytest.raises(Cut):
        trained(kept_in(tmp_path), cut=300)
    heard: list[tuple[int, str]] = []
    said: list[str] = []

    class Heard:
        def say(self, text: str) -> None:
            said.append(text)

        @contextmanager
        def task(self, name: str, total: int) -> Iterator[Task]:
            assert total == STEPS - 300
            yield self

        def advance(self, steps: int = 1, note: str = "") -> None:
            heard.append((steps, note))

    trained(replace(kept_in(tmp_path), progress=Heard()))
    assert said == ["1 something (new): taken up again at step 300 of 450"]
    assert sum(steps for steps, _ in heard) == STEPS - 300


def cut_at(folder: Path, step: int) -> None:
    with pytest.raises(Cut):
        trained(kept_in(folder), cut=step)


@pytest.mark.parametrize("ending", [".json", ".safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "changed", "gone"])
def test_a_damaged_snapshot_is_passed_over_for_the_one_before(damage: str, ending: str, tmp_path: Path) -> None:
    cut_at(tmp_path, 100)
    stored = Snapshots(tmp_path, "k", CPU)
    steps = {slot: stored._about("1 something (new)", slot)["step"] for slot in snapshots.SLOTS}
    assert sorted(steps.values()) == [99, 100]
    newest = max(steps, key=steps.__getitem__)
    file = stored._stem("1 something (new)", newest).with_suffix(ending)
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(content[:50])
    elif ending == ".json":
        file.write_bytes(content.replace(b'"step": 100', b'"step": 103'))
    else:
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert stored.restore("1 something (new)", {})[0] == 99
    assert_same(trained(kept_in(tmp_path)), trained(CONTEXT))


def test_the_whole_snapshot_is_not_replaced_before_the_damaged_one(tmp_path: Path) -> None:
    cut_at(tmp_path, 100)
    stored = Snapshots(tmp_path, "k", CPU)
    newest = max(snapshots.SLOTS, key=lambda slot: stored._about("1 something (new)", slot)["step"])
    stored._stem("1 something (new)", newest).with_suffix(".safetensors").write_bytes(b"damaged")
    assert stored.restore("1 something (new)", {})[0] == 99
    stored.save("1 something (new)", 101, {}, {})
    steps = {slot: stored._about("1 something (new)", slot)["step"] for slot in snapshots.SLOTS}
    assert sorted(steps.values()) == [99, 101]


def test_snapshots_of_one_training_are_not_taken_for_another_s(tmp_path: Path) -> None:
    kept = Snapshots(tmp_path, "k", CPU)
    kept.save("one", 3, {"x": Kept(x=torch.zeros(1))}, {})
    for file in list(tmp_path.iterdir()):
        file.rename(tmp_path / file.name.replace("one", "two"))
    assert kept.restore("two", {"x": Kept(x=torch.zeros(1))}) == (0, {})


def test_nothing_whole_means_from_the_beginning(tmp_path: Path) -> None:
    cut_at(tmp_path, 10)
    for file in tmp_path.glob("*.safetensors"):
        file.write_bytes(b"")
    assert Snapshots(tmp_path, "k", CPU).restore("1 something (new)", {}) == (0, {})
    assert_same(trained(kept_in(tmp_path)), trained(CONTEXT))


def test_snapshots_of_another_key_are_passed_over(tmp_path: Path) -> None:
    cut_at(tmp_path, 10)
    assert Snapshots(tmp_path, "other", CPU).restore("1 something (new)", {}) == (0, {})
    assert_same(trained(kept_in(tmp_path, "other")), trained(CONTEXT))


def test_a_snapshot_of_a_newer_format_is_refused_and_stays(tmp_path: Path) -> None:
    with pytest.raises(Cut):
        trained(kept_in(tmp_path), cut=100)
    for file in tmp_path.glob("*.json"):
        write_sealed(file, read_sealed(file, snapshots.FORMAT), snapshots.FORMAT + 1)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert len(before) == 4
    with pytest.raises(NewerFormatError, match=r"\.json has format 2, this version reads 1: update spiceclust$"):
        trained(kept_in(tmp_path))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_state_of_another_shape_is_passed_over(tmp_path: Path) -> None:
    kept = Snapshots(tmp_path, "k", CPU)
    kept.save("x", 3, {"a": Kept(x=torch.ones(2)), "b": Kept(y=torch.ones(2))}, {})
    other = Kept(x=torch.zeros(2))
    assert kept.restore("x", {"a": other, "b": Kept(y=torch.zeros(3))}) == (0, {})
    assert kept.restore("x", {"a": other, "b": Kept(z=torch.zeros(2))}) == (0, {})
    assert other.tensors["x"].tolist() == [0, 0]  # all or nothing
    assert kept.restore("x", {"a": other})[0] == 3


def test_trainings_and_parts_have_snapshots_of_their_own(tmp_path: Path) -> None:
    kept = Snapshots(tmp_path, "k", CPU)
    kept.save("one", 3, {"x": Kept(x=torch.tensor([1.0]))}, {})
    kept.save("two", 4, {"x": Kept(x=torch.tensor([2.0]))}, {})
    kept.within("part").save("one", 5, {"x": Kept(x=torch.tensor([3.0]))}, {"a": 1})
    for where, name, step, value in (
        (kept, "one", 3, 1.0),
        (kept, "two", 4, 2.0),
        (kept.within("part"), "one", 5, 3.0),
    ):
        found = torch.zeros(1)
        assert where.restore(name, {"x": Kept(x=found)})[0] == step
        assert found.item() == value
    kept.clear()
    assert not tmp_path.exists()
    kept.clear()


def test_a_snapshot_waits_for_the_clock_and_for_what_the_last_one_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(snapshots, "SECONDS", 30.0)
    monkeypatch.setattr(snapshots, "SHARE", 0.02)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    kept = Snapshots(Path("nowhere"), "k", CPU)
    due = []
    for cost, waited in ((0.0, 29), (0.0, 30), (1.0, 49), (1.0, 50)):
        kept.cost, kept.last = cost, now[0] - waited
        due.append(kept.due())
    assert due == [False, True, False, True]


def test_the_time_before_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    first = Snapshots(tmp_path, "k", CPU)
    now[0] = 160.0
    first.within("part").save("x", 1, {}, {})
    now[0] = 1000.0
    second = Snapshots(tmp_path, "k", CPU)
    assert second.clock.before == 0
    assert second.within("part").restore("x", {}) == (1, {})
    assert second.clock.before == 60
    now[0] = 1010.0
    assert second.clock.seconds() == 70


def test_an_interruption_waits_for_the_step_keeps_the_state_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "SECONDS", 1e9)  # none by the clock
    generator, asked = Context.generator, []

    def interrupted(self: Context, *names: str | int) -> torch.Generator:
        if names == ("x", 200) and not asked:
            asked.append(names)
            interruption._interrupt(signal.SIGTERM, None)
        return generator(self, *names)

    monkeypatch.setattr(Context, "generator", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(kept_in(tmp_path))
    assert Snapshots(tmp_path, "k", CPU).restore("1 something (new)", {})[0] == 201  # the step it came in is whole
    assert_same(trained(kept_in(tmp_path)), trained(CONTEXT))


@pytest.mark.parametrize("early", [False, True])
def test_an_interruption_in_the_last_step_keeps_what_was_learned(
    early: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "SECONDS", 1e9)
    taken: list[int] = []

    def run(context: Context) -> list[float]:
        weight = torch.nn.Parameter(torch.ones(1))

        def step(number: int) -> torch.Tensor:
            taken.append(number)
            if number == 4 and len(taken) == 5:
                interruption._interrupt(signal.SIGTERM, None)
            return weight.sum() * (number + 1)

        return train(
            step,
            steps=9 if early else 5,
            optimizer=torch.optim.SGD([weight], lr=0.1),
            rate=lambda number: 1.0,
            state={"weight": Kept(weight=weight.data)},
            name="x",
            part="semi",
            context=context,
            over=lambda number: early and number == 4,
        )

    with pytest.raises(KeyboardInterrupt):
        run(kept_in(tmp_path))
    curve = run(kept_in(tmp_path))
    assert taken == [0, 1, 2, 3, 4]  # none of them again
    assert curve == run(CONTEXT)


def interrupt() -> None:
    interruption._interrupt(signal.SIGINT, None)


def test_only_the_first_interruption_of_a_block_waits() -> None:
    seen: list[bool] = []

    def block() -> None:
        with interruption.patient() as asked:
            seen.append(asked())
            interrupt()
            seen.append(asked())
            with pytest.raises(KeyboardInterrupt):
                interrupt()
            seen.append(True)

    with pytest.raises(KeyboardInterrupt):  # if the block does not end itself
        block()
    assert seen == [False, True, True]
    with interruption.patient() as asked:
        assert not asked()
    with pytest.raises(KeyboardInterrupt):
        interrupt()


def test_a_state_that_is_lost_is_not_kept(tmp_path: Path) -> None:
    weight = torch.zeros(1, requires_grad=True)

    def step(number: int) -> Tensor:
        return weight.sum() * 0 + (float("nan") if number == 400 else 1.0)

    with pytest.raises(TrainingError):
        train(
            step,
            steps=2000,
            optimizer=torch.optim.SGD([weight], lr=0.1),
            rate=lambda _: 1.0,
            state={},
            name="x",
            part="new",
            context=kept_in(tmp_path),
        )
    assert Snapshots(tmp_path, "k", CPU).restore("x", {})[0] == 400


def test_a_snapshot_that_cannot_be_written_is_an_error_and_the_last_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_at(tmp_path, 20)
    before = Snapshots(tmp_path, "k", CPU).restore("1 something (new)", {})[0]

    def full(*_: object) -> None:
        raise RunFolderError("no space")

    with monkeypatch.context() as patched:
        patched.setattr(snapshots, "save_tensors", full)
        with pytest.raises(RunFolderError, match="no space"):
            trained(kept_in(tmp_path))
    assert Snapshots(tmp_path, "k", CPU).restore("1 something (new)", {})[0] == before
    assert_same(trained(kept_in(tmp_path)), trained(CONTEXT))


def test_an_optimiser_s_state_comes_back_without_its_rates() -> None:
    weights = [torch.ones(2, requires_grad=True) for _ in range(2)]
    first, second = (torch.optim.Adam([{"params": weights, "lr": lr}]) for lr in (0.1, 0.5))
    sum(weight.sum() for weight in weights).backward()  # type: ignore[union-attr]
    first.step()
    OptimizerState(second).load_state_dict(OptimizerState(first).state_dict())
    assert second.param_groups[0]["lr"] == 0.5
    for weight in weights:
        assert second.state[weight].keys() == first.state[weight].keys() != set()
        for name, value in first.state[weight].items():
            assert torch.equal(second.state[weight][name], value)
