from spiceclust.bulk.watchdog import ENDED, FIRST, FULL, HUNG, LEAST, TIMES, Held, Signs, Watch, cause

FINE = Signs(workers=2, asked={"CPU": 2, "GPU": 0}, there={"CPU": 4})


def test_patience_follows_from_the_slowest_shard() -> None:
    watch = Watch(1000.0)
    assert watch.patience == FIRST
    watch.finished(1010.0, 2.0)
    assert watch.patience == LEAST
    watch.finished(1030.0, 20.0)
    watch.finished(1031.0, 1.0)
    assert watch.patience == 20 * TIMES


def test_each_patience_is_told_once_and_a_finished_shard_ends_that() -> None:
    watch = Watch(0.0)
    watch.finished(0.0, 1.0)
    ticks = [watch.stalled(now) for now in (30, 59, 61, 90, 119, 121, 130)]
    assert ticks == [False, False, True, False, False, True, False]
    watch.finished(140.0, 1.0)
    assert [watch.stalled(now) for now in (150.0, 201.0)] == [False, True]


def test_workers_that_hang_are_those_that_hold_a_shard_for_long() -> None:
    watch = Watch(0.0)
    watch.finished(0.0, 1.0)
    held = [Held("a", 0.0, "worker 1"), Held("b", 100.0, "worker 2")]
    signs = Signs(2, {}, {}, held=held)
    assert watch.hung(HUNG * LEAST - 1, signs) == []
    assert watch.hung(HUNG * LEAST + 1, signs) == held[:1]


def test_it_is_over_when_nothing_begins_either() -> None:
    watch = Watch(0.0)
    watch.finished(10.0, 1.0)
    end = ENDED * LEAST
    assert not watch.over(10 + end - 1, FINE)
    assert watch.over(10 + end + 1, FINE)
    trying = Signs(2, {}, {}, last=200.0)
    assert not watch.over(10 + end + 1, trying)
    assert watch.over(200 + end + 1, trying)


def test_the_cause_is_named_with_its_numbers() -> None:
    held = [Held("b.tar", 90.0, "worker 7 on there"), Held("a.tar", 40.0, "worker 8 on there")]
    told = {
        "cpus": cause(0, Signs(3, {"CPU": 3.0, "GPU": 0}, {"CPU": 2.0}, held=held, killed=4)),
        "gpus": cause(0, Signs(3, {"CPU": 3.0, "GPU": 3}, {"CPU": 4.0})),
        "killed": cause(0, Signs(2, {}, {}, held=held, killed=4, memory=0.5)),
        "full": cause(0, Signs(2, {}, {}, held=held, memory=FULL + 0.01)),
        "held": cause(100, Signs(2, {}, {}, held=held, ended=6)),
        "ended": cause(100, Signs(2, {}, {}, ended=6)),
        "none": cause(100, FINE),
    }
    assert told["cpus"].startswith("3 workers ask for 3 CPUs in all and the cluster has 2:")
    assert told["gpus"].startswith("3 workers ask for 3 GPUs in all and the cluster has 0:")
    assert told["killed"].startswith("memory: 4 processes were killed for want of it and 50% ")
    assert told["full"].startswith("memory: 0 processes")
    assert told["held"] == "a.tar has been with worker 8 on there for 1:00; workers ended 6 times before"
    assert told["ended"].startswith("workers ended 6 times")
    assert told["none"].startswith("no worker has begun a shard")
