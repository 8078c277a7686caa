import pytest

from spiceclust import costs
from spiceclust.config import Facts, make_request, resolve
from spiceclust.costs import count_seconds, count_steps


def test_steps_and_seconds_by_hand() -> None:
    """1,000 images, 10 clusters: 100 steps of 10 images, 40 forward passes each, which take a second.

    All images are four batches of 256 where they pass at once.
    """
    overrides = {
        "pretrain": {"epochs": 1, "batch_size": 10, "neighbor_share": 0.5, "neighbor_start": 0.6},
        "embed": {"cached_views": 4},
        "self_label": {"meta_batch": 300, "batch_size": 100, "rounds": 5, "passes": 2},
        "graph_label": {"steps": 7},
        "scan": {"steps": 11},
        "semi": {"steps": 20, "batch_size": 5, "unlabelled_ratio": 3},
        "confident": {"steps": 30, "batch_size": 8},
    }
    facts = Facts(n_images=1000, native_size=16, channels=1, domain="natural")
    config = resolve(make_request(n_clusters=10, overrides=overrides), facts)
    steps = count_steps(config, 1000, None)
    assert steps == {"1-pretrain": 100, "3-self": 5 * 2 * 3 + 7 + 11, "5-semi": 40}
    seconds = count_seconds(config, 1000, 0, steps, one=1 / 40, head_step=0.5)
    one = 1 / 40
    assert seconds["1-pretrain"] == pytest.approx(100 + one * 4 * 1024)
    assert seconds["2-embed"] == pytest.approx(one * 9 * 1024)
    assert seconds["3-self"] == pytest.approx(24)
    assert seconds["5-semi"] == pytest.approx(one * (40 * (15 + 3 * 20) + 6 * 1024))
    scan = resolve(make_request(n_clusters=10, method="scan", overrides=overrides), facts)
    steps = count_steps(scan, 1000, None)
    assert steps == {"1-pretrain": 100, "3-self": 11, "5-semi": 30}
    assert count_seconds(scan, 1000, 0, steps, 1 / 40, 0.5)["5-semi"] == pytest.approx(one * (30 * 8 * 4 + 6 * 1024))
    longer = count_seconds(config, 1000, 500, count_steps(config, 1500, None), one, 0.5)
    assert longer["1-pretrain"] == pytest.approx(150 + one * 4 * 1536)
    assert longer["2-embed"] == seconds["2-embed"]


def test_where_the_encoder_stays_as_it_is_a_step_of_stage_5_costs_what_heads_cost() -> None:
    overrides = {"semi": {"steps": 20, "train_encoder": False}, "embed": {"cached_views": 4}}
    facts = Facts(n_images=1000, native_size=16, channels=1, domain="natural")
    config = resolve(make_request(n_clusters=10, overrides=overrides), facts)
    seconds = count_seconds(config, 1000, 0, count_steps(config, 1000, None), one=0.01, head_step=0.5)
    assert seconds["5-semi"] == pytest.approx(40 * 0.5 + 6 * 1024 * 0.01)


def test_the_stopwatch_leaves_out_the_first_step_and_ends_after_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(costs.time, "perf_counter", lambda: now[0])
    watch = costs._Stopwatch()
    with watch.task("reading images", 10) as task:
        task.advance()
    assert watch.steps == 0
    with watch.task("1 pretrain (MoCo v2)", 200) as task:
        for seconds in (30, 0.25, 0.25, 0.25):
            now[0] += seconds
            task.advance()
        now[0] += 0.25
        with pytest.raises(costs._EnoughError):
            task.advance()
    assert watch.steps == 4
    assert watch.per_step == pytest.approx(0.25)


def test_the_stopwatch_ends_with_stage_1(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = costs._Stopwatch()
    with watch.task("1 pretrain (MoCo v2)", 3) as task:
        for _ in range(3):
            task.advance()
    with pytest.raises(costs._EnoughError), watch.task("2 embed", 3):
        pass
    assert watch.steps == 2
