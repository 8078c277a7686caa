import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spiceclust.errors import ConfigError
from spiceclust.progress import Plain, Silent
from spiceclust.training.context import Context, open_context, open_device, prefers_bf16

CPU = torch.device("cpu")
NAMES = st.lists(st.one_of(st.sampled_from(["pretrain", "views", "order"]), st.integers(0, 10**6)), max_size=3)


def context(seed: int = 0, bf16: bool = False) -> Context:
    return Context(seed, CPU, bf16)


@given(st.integers(0, 2**63 - 1), NAMES)
def test_numbers_depend_on_seed_and_names_alone(seed: int, names: list[str | int]) -> None:
    number = context(seed).number(*names)
    assert 0 <= number < 2**31
    torch.manual_seed(number)
    assert Context(seed, CPU, bf16=True).number(*names) == number
    assert context(seed + 1).number(*names) != number
    assert context(seed).number(*names, "more") != number


def test_numbers_are_the_same_on_every_machine() -> None:
    # printf 0/pretrain/views/3 | sha256sum begins with fd9e8506; its lowest bit is dropped. Runs rest on it.
    assert context(0).number("pretrain", "views", 3) == 0xFD9E8506 >> 1


def test_many_steps_get_seeds_of_their_own() -> None:
    numbers = {context(seed).number("semi", step) for seed in range(3) for step in range(1000)}
    assert len(numbers) == 3000


@given(NAMES)
def test_generators_depend_on_seed_and_names_alone(names: list[str | int]) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    drawn = torch.rand(4, generator=context().generator(*names))
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    assert torch.equal(torch.rand(4, generator=context().generator(*names)), drawn)
    assert not torch.equal(torch.rand(4, generator=context(1).generator(*names)), drawn)
    assert not torch.equal(torch.rand(4, generator=context().generator(*names, "more")), drawn)


def test_generators_do_not_share_their_state() -> None:
    shared = context()
    first = shared.generator("a")
    torch.rand(100, generator=first)
    assert torch.equal(
        torch.rand(4, generator=shared.generator("a")), torch.rand(4, generator=context().generator("a"))
    )
    assert first.device == CPU


@pytest.mark.parametrize(("bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_autocast_is_used_where_asked_for(bf16: bool, dtype: torch.dtype) -> None:
    with context(bf16=bf16).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_devices_by_name() -> None:
    assert open_device("cpu") == CPU
    assert open_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["banana", "", "CPU", "gpu", "cpu:-1", "cuda:99", "xpu:99", "hpu", "meta", "cuda:x"])
def test_a_device_that_cannot_be_used_is_an_error_of_one_line(name: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"^device '{name}' cannot be used \(.+\): choose auto, cpu or cuda$"
    ) as error:
        open_device(name)
    assert "\n" not in str(error.value)


def test_bfloat16_is_no_habit() -> None:
    assert isinstance(prefers_bf16(CPU), bool)
    assert not prefers_bf16(torch.device("mps"))


def test_a_context_is_opened_on_the_named_device_and_is_silent_unless_told() -> None:
    opened = open_context(7, "cpu", None)
    assert (opened.seed, opened.device, opened.bf16) == (7, CPU, prefers_bf16(CPU))
    assert isinstance(opened.progress, Silent)
    progress = Plain()
    assert open_context(7, "cpu", progress).progress is progress
    with pytest.raises(ConfigError):
        open_context(7, "banana", None)
