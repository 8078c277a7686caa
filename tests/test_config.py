from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from spiceclust.config import (
    Facts,
    FitConfig,
    Request,
    choose,
    image_size,
    make_request,
    resolve,
)
from spiceclust.errors import ConfigError, SourceError
from spiceclust.presets import MAX_SIZE, PRESETS


def facts(n: int = 1797, size: int = 8, channels: int = 1, domain: str = "glyph") -> Facts:
    return Facts(n_images=n, native_size=size, channels=channels, domain=domain)


def config(n: int = 1797, c: int = 10, preset: str = "quick", **overrides: Any) -> FitConfig:
    return resolve(Request(n_clusters=c, preset=preset, overrides=overrides), facts(n))


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int]:
    """N and C with N >= 2C: every size from the smallest legal one to beyond ImageNet, small ones as often as large."""
    c = draw(st.one_of(st.integers(2, 20), st.integers(2, 2000)))
    n = draw(st.one_of(st.just(2 * c), st.integers(2 * c, 4 * c + 100), st.integers(2 * c, 5_000_000)))
    return n, c


@given(sizes(), st.sampled_from(sorted(PRESETS)))
def test_every_derived_number_is_sane(size: tuple[int, int], preset: str) -> None:
    n, c = size
    whole = config(n, c, preset)
    pretrain, heads, select, semi = whole.pretrain, whole.self_label, whole.select, whole.semi

    assert 2 <= pretrain.batch_size <= n
    assert pretrain.queue_size % pretrain.batch_size == 0
    assert pretrain.queue_size <= max(pretrain.batch_size, n / 4)
    assert pretrain.epochs * n >= pretrain.batch_size  # at least one step
    assert 1 <= pretrain.neighbors <= max(1, n / 40)
    assert 0.9 <= pretrain.key_momentum <= 0.999 + 1e-9
    memory = 1 / (1 - pretrain.key_momentum)  # steps
    assert pretrain.queue_size / pretrain.batch_size <= max(1, memory / 2)

    assert 2 <= heads.batch_size <= heads.meta_batch <= n
    assert heads.meta_batch >= 2 * c  # a cluster's quota holds two images at the least
    assert 1 <= whole.graph_label.neighbors <= select.max_neighbors
    assert 2 <= whole.graph_label.batch_size <= n

    assert 1 <= select.max_neighbors <= n // c

    assert 1 <= whole.scan.neighbors <= min(20, select.max_neighbors)
    assert 2 <= whole.scan.batch_size <= n
    assert whole.scan.steps >= 100

    for teacher in (semi, whole.confident):
        assert teacher.steps > 0
        assert teacher.batch_size > 0
        assert 0 <= teacher.ema <= 0.999


@given(sizes(), st.sampled_from(["quick", "standard"]))
def test_work_grows_with_the_images_but_not_faster(size: tuple[int, int], preset: str) -> None:
    n, c = size
    one, four = config(n, c, preset), config(4 * n, c, preset)
    assert one.pretrain.epochs >= four.pretrain.epochs
    assert one.pretrain.batch_size <= four.pretrain.batch_size
    assert one.semi.steps <= four.semi.steps + 1
    assert one.scan.steps <= four.scan.steps
    assert one.confident.steps == one.semi.steps
    assert one.confident.batch_size == one.semi.batch_size * one.semi.unlabelled_ratio


def test_neighbours_stand_in_for_views_but_of_glyphs() -> None:
    def share(**asked: Any) -> float:
        return resolve(Request(n_clusters=10, **asked), facts(1000, domain="texture")).pretrain.neighbor_share

    assert [share(), share(views="natural"), share(views="glyph")] == [0.5, 0.5, 0.0]  # the views used, not those found
    assert share(views="glyph", overrides={"pretrain": {"neighbor_share": 0.25}}) == 0.25


def test_larger_images_are_trained_on_for_longer_up_to_32_pixels() -> None:
    def epochs(side: int) -> int:
        return resolve(Request(n_clusters=10, image_size=side), facts(10_000)).pretrain.epochs

    assert [epochs(side) for side in (8, 16, 24, 32, 64)] == [50, 50, 75, 100, 100]


def test_key_momentum_and_queue_follow_the_steps_unless_given() -> None:
    def pretrain(**given: Any) -> tuple[float, int]:
        found = config(10_000, 10, pretrain={"epochs": 64, "batch_size": 64, **given}).pretrain
        return found.key_momentum, found.queue_size

    assert pretrain() == (pytest.approx(0.99), 33 * 64)  # 10,000 steps: a memory of 100, a queue of a third of it
    assert pretrain(epochs=1) == (pytest.approx(0.9), 3 * 64)
    assert pretrain(epochs=10_000) == (pytest.approx(0.999), 39 * 64)  # a quarter of the images
    assert pretrain(key_momentum=0.5, queue_size=128) == (0.5, 128)
    assert pretrain(key_momentum=0.5) == (0.5, 64)  # a memory of two steps: one batch
    assert pretrain(epochs=64.0, batch_size="64") == pretrain()  # what pydantic reads as whole numbers
    assert pretrain(batch_size=128)[1] == 17 * 128


@pytest.mark.parametrize(
    ("name", "n", "side", "backbone", "queue", "agreement"),
    [
        ("cifar10", 60_000, 32, "wrn28_2", 12_800, 0.99),
        ("cifar100-20", 60_000, 32, "wrn28_8", 12_800, 0.99),
        ("stl10", 13_000, 96, "wrn37_2", 65_536, 0.90),
        ("imagenet10", 13_000, 375, "resnet34", 65_536, 0.90),
        ("imagenet-dogs15", 19_500, 375, "resnet34", 65_536, 0.90),
        ("tiny-imagenet", 100_000, 64, "resnet34", 65_536, 0.95),
    ],
)
def test_paper_on_a_data_set_of_the_paper(
    name: str, n: int, side: int, backbone: str, queue: int, agreement: float
) -> None:
    known = facts(n, side, 3, "natural").model_copy(update={"benchmark": name})
    found = resolve(Request(n_clusters=10, preset="paper"), known)
    assert (found.backbone, found.pretrain.queue_size, found.select.agreement) == (backbone, queue, agreement)
    assert (found.pretrain.epochs, found.pretrain.batch_size, found.image_size) == (1000, 128, min(side, 224))
    assert (found.semi.steps, found.semi.threshold, found.method) == (2**20, 0.95, "spice-paper")
    for preset in ("quick", "standard"):  # these follow from the images, whatever they are called
        plain = resolve(Request(n_clusters=10, preset=preset), facts(n, side, 3, "natural"))
        assert resolve(Request(n_clusters=10, preset=preset), known) == plain
    asked = resolve(Request(n_clusters=10, preset="paper", overrides={"backbone": "resnet18"}), known)
    assert asked.backbone == "resnet18"


def test_paper_is_the_published_schedule() -> None:
    paper = config(50_000, 10, "paper")
    assert paper.backbone == "resnet34"
    assert (paper.pretrain.epochs, paper.pretrain.batch_size, paper.pretrain.learning_rate) == (1000, 128, 0.015)
    assert paper.pretrain.neighbor_share == 0
    assert (paper.pretrain.temperature, paper.pretrain.key_momentum) == (0.2, 0.999)
    assert (paper.self_label.heads, paper.self_label.meta_batch, paper.self_label.ratio) == (10, 1000, 0.5)
    assert (paper.method, paper.self_label.learning_rate, paper.self_label.passes) == ("spice-paper", 0.005, 5)
    assert paper.select.max_neighbors == 100
    assert (paper.semi.steps, paper.semi.batch_size, paper.semi.unlabelled_ratio) == (2**20, 64, 7)
    assert (paper.semi.threshold, paper.semi.learning_rate, paper.semi.ema) == (0.95, 0.03, 0.999)
    assert (paper.scan.heads, paper.scan.neighbors, paper.scan.entropy_weight) == (10, 20, 5)
    assert (paper.scan.batch_size, paper.scan.steps, paper.scan.learning_rate) == (128, 100 * 50_000 // 128, 1e-4)
    assert (paper.confident.threshold, paper.confident.steps) == (0.99, 200 * 50_000 // 128)


@pytest.mark.parametrize(("n", "c"), [(3, 2), (19, 10), (0, 2)])
def test_too_few_images_is_an_error_that_names_both_numbers(n: int, c: int) -> None:
    with pytest.raises(SourceError) as caught:
        config(n, c)
    message = str(caught.value)
    assert message.startswith(f"{n} distinct readable images are too few for {c} clusters")
    assert f"at least {2 * c} are needed" in message
    assert "\n" not in message


def test_twice_the_clusters_is_enough() -> None:
    assert config(20, 10).n_clusters == 10


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"n_clusters": 1}, r"n_clusters=1 should be >= 2"),
        ({"method": "scam"}, r"unknown method 'scam': choose one of auto, spice, spice-paper, scan$"),
        ({"preset": "fast"}, r"unknown preset 'fast': choose one of quick, standard, paper"),
        ({"views": "photo"}, r"unknown views 'photo': choose one of auto, natural, aligned, glyph, texture"),
        ({"encoder": "clip"}, r"unknown encoder 'clip': choose one of moco, timm, checkpoint, embeddings"),
        ({"encoder": "clip:x"}, r"unknown encoder 'clip': choose one of moco, timm, checkpoint, embeddings"),
        ({"encoder": "timm"}, r"encoder 'timm' should be written timm:NAME or timm:NAME@FILE"),
        ({"encoder": "checkpoint:"}, r"encoder 'checkpoint:' should be written checkpoint:PATH"),
        ({"encoder": "moco:x"}, r"encoder 'moco:x' should be written moco"),
        (
            {"encoder": "timm:x", "overrides": {"backbone": "resnet18"}},
            r"config: backbone belongs to the encoder moco, and 'timm:x' brings its own",
        ),
        ({"image_size": 7}, r"image_size=7 should lie between 8 and 1024"),
        ({"image_size": 1025}, r"image_size=1025 should lie between 8 and 1024"),
        ({"seed": -1}, r"seed=-1 should lie between 0 and 2\^63"),
        ({"n_clusters": "x"}, r"n_clusters: input should be a valid integer.* \(given: 'x'\)"),
        ({"n_clusters": 2.5}, r"n_clusters: input should be a valid integer.* \(given: 2.5\)"),
        ({"seed": None}, r"seed: input should be a valid integer"),
        ({"overrides": {"pretrian": {}}}, r"unknown config field 'pretrian': choose one of backbone, pretrain, "),
        ({"overrides": {"n_clusters": 90}}, r"unknown config field 'n_clusters'"),
        ({"overrides": {"image_size": 40}}, r"unknown config field 'image_size'"),
    ],
)
def test_a_bad_request_is_refused_in_one_line(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_request(**{"n_clusters": 2, **asked})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [None, 8, 1024])
@pytest.mark.parametrize("views", ["auto", "natural", "aligned", "glyph", "texture"])
def test_a_good_request_passes(views: str, size: int | None) -> None:
    request = make_request(n_clusters=2, views=views, image_size=size)
    assert (request.views, request.image_size) == (views, size)


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"pretrain": {"epoch": 1}}, "pretrain.epoch"),
        ({"pretrain": {"epochs": 0}}, "pretrain.epochs"),
        ({"pretrain": {"epochs": "many"}}, "pretrain.epochs"),
        ({"pretrain": 3}, "pretrain"),
        ({"select": {"agreement": 1.5}}, "select.agreement"),
        ({"pretrain": {"learning_rate": float("inf")}}, "pretrain.learning_rate"),
        ({"backbone": "vgg"}, "backbone"),
    ],
)
def test_a_bad_override_is_refused_in_one_line_that_names_the_field(overrides: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=rf"^config: {field}: .+ \(given: ") as caught:
        config(**overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"pretrain": {"batch_size": 200, "queue_size": 200}},
            r"batch_size=200 should be <= the 100 distinct",
        ),
        ({"self_label": {"meta_batch": 101}}, r"self_label.meta_batch=101 should be <= the 100 distinct"),
        ({"self_label": {"meta_batch": 9}}, r"self_label.meta_batch=9 should be >= 10 clusters"),
        ({"graph_label": {"neighbors": 6}}, r"graph_label.neighbors=6 should be <= select.max_neighbors=5"),
        ({"scan": {"neighbors": 6}}, r"scan.neighbors=6 should be <= select.max_neighbors=5"),
        ({"pretrain": {"queue_size": 33}}, r"pretrain.queue_size=33 should be a multiple of pretrain.batch_size=32"),
    ],
)
def test_overrides_that_do_not_fit_the_images_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(Request(n_clusters=10, overrides=overrides), facts(100))


def test_resolve_merges_nested_overrides() -> None:
    plain = config()
    changed = config(pretrain={"epochs": 3, "temperature": 0.9}, semi={"steps": 5})
    expected = plain.model_dump()
    expected["pretrain"].update(epochs=3, temperature=0.9)
    expected["pretrain"].update(key_momentum=0.9, queue_size=192)  # follow from the fewer steps
    expected["semi"].update(steps=5)
    assert changed.model_dump() == expected


def test_scan_s_neighbours_follow_those_that_are_kept() -> None:
    assert config(select={"max_neighbors": 7}).scan.neighbors == 7
    assert config(select={"max_neighbors": 7}).graph_label.neighbors == 7
    assert config(select={"max_neighbors": 50}).scan.neighbors == 20
    assert config(select={"max_neighbors": 50}, scan={"neighbors": 30}).scan.neighbors == 30


def test_the_method_is_spice_unless_asked_and_changes_no_other_field() -> None:
    spice = resolve(make_request(n_clusters=10), facts())
    scan = resolve(make_request(n_clusters=10, method="scan"), facts())
    assert (spice.method, scan.method) == ("spice", "scan")
    assert scan.model_dump(exclude={"method"}) == spice.model_dump(exclude={"method"})


def test_resolving_leaves_the_request_as_it_was() -> None:
    request = Request(n_clusters=10, overrides={"pretrain": {"epochs": 3}})
    resolve(request, facts())
    assert request.overrides == {"pretrain": {"epochs": 3}}


def test_auto_takes_the_domain_of_the_images_and_a_named_one_wins() -> None:
    assert resolve(Request(n_clusters=2), facts(domain="texture")).views == "texture"
    assert resolve(Request(n_clusters=2, views="natural"), facts(domain="texture")).views == "natural"


@given(st.integers(1, 10_000), st.sampled_from(sorted(PRESETS)))
def test_images_keep_about_their_size_within_what_the_preset_affords(native: int, preset: str) -> None:
    side = image_size(Request(n_clusters=2, preset=preset), native)
    assert 16 <= side <= MAX_SIZE[preset]
    assert side % 4 == 0
    if 16 <= native <= MAX_SIZE[preset]:
        assert native <= side < native + 4


def test_an_asked_size_wins() -> None:
    assert image_size(Request(n_clusters=2, image_size=50), 500) == 50
    assert resolve(Request(n_clusters=2, image_size=50), facts()).image_size == 50


def test_a_config_survives_json() -> None:
    whole = config(preset="standard")
    assert FitConfig.model_validate_json(whole.model_dump_json()) == whole


def test_configs_are_frozen() -> None:
    whole = config()
    with pytest.raises(ValidationError, match="frozen"):
        whole.pretrain.epochs = 1  # type: ignore[misc]


def test_choose_looks_up_and_a_miss_lists_what_there_is() -> None:
    assert choose({"a": 1, "b": 2}, "b", "letter") == 2
    with pytest.raises(ConfigError, match=r"unknown letter 'c': choose one of a, b$"):
        choose({"a": 1, "b": 2}, "c", "letter")


def test_an_encoder_that_is_given_decides_the_size() -> None:
    given = facts(size=300).model_copy(update={"encoder_size": 224, "encoder_digest": "abc"})
    whole = resolve(Request(n_clusters=10, encoder="timm:x"), given)
    assert (whole.image_size, whole.encoder, whole.encoder_digest) == (224, "timm:x", "abc")


@pytest.mark.parametrize(
    ("preset", "ours", "trained"),
    [
        ("quick", True, True),
        ("standard", True, True),
        ("quick", False, False),
        ("standard", False, True),
        ("paper", False, True),
    ],
)
def test_stage_3_trains_the_encoders_of_others_where_that_is_affordable(preset: str, ours: bool, trained: bool) -> None:
    found = facts().model_copy(update={"our_encoder": ours})
    whole = resolve(Request(n_clusters=10, preset=preset, encoder="timm:x"), found)
    assert whole.semi.train_encoder == whole.confident.train_encoder == trained
    asked = {"semi": {"train_encoder": not trained}}
    assert resolve(Request(n_clusters=10, preset=preset, overrides=asked), found).semi.train_encoder != trained


def test_of_embeddings_there_is_one_view() -> None:
    assert resolve(Request(n_clusters=10, encoder="embeddings:e.npy"), facts()).embed.cached_views == 1


def test_views_of_one_s_own_are_named_and_the_domain_stays_known() -> None:
    whole = resolve(make_request(n_clusters=10, views="own:a.b"), facts(domain="texture"))
    assert (whole.views, whole.own_views) == ("texture", "a.b")
