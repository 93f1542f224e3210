"""Curves with fewer points: what stands out stays, and what is read does not grow with the points."""

from __future__ import annotations

import json
import math
import random
import uuid

import numpy as np
import pytest
import sqlalchemy as sql
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from trainwright.jobs import paths
from trainwright.jobs.store import curves
from trainwright.jobs.store.curves import downsampled
from trainwright.jobs.store.points import figures as of_metrics


def curve(count, **values):
    """Points of noise around 2, but for some steps."""
    rng = random.Random(0)
    points = [[step, 2 + rng.random() / 5] for step in range(count)]
    for name, value in values.items():
        points[int(name.removeprefix("at_"))][1] = value
    return [tuple(point) for point in points]


@pytest.mark.parametrize("most", [50, 101, 1200])
def test_no_spike_is_lost_upward_or_downward(most):
    points = curve(10_000, at_3123=9.0, at_3124=-9.0, at_7345=-8.0)
    kept = downsampled(points, most)
    assert most / 2 < len(kept) <= most
    assert {point[1] for point in kept} > {9.0, -9.0, -8.0}
    known = set(kept)
    assert kept == [point for point in points if point in known]  # points of the curve, in their order
    assert (kept[0], kept[-1]) == (points[0], points[-1])


@pytest.mark.parametrize(("count", "most", "left"), [(0, 10, 0), (10, 10, 10), (11, 10, 10), (3, 10, 3)])
def test_few_points_stay(count, most, left):
    points = curve(count)
    assert downsampled(points, most) == points if left == count else len(downsampled(points, most)) == left


def test_what_is_no_number_is_seen_among_those_that_are():
    points = curve(1000, **{f"at_{step}": math.nan for step in [*range(400, 600), 100, 900]}, at_150=math.inf)
    kept = downsampled(points, 42)
    odd = {step for step, value in kept if math.isnan(value)}
    assert {100, 900} < odd <= {100, 900, *range(400, 600)}
    assert (150, math.inf) in kept
    assert kept == sorted(kept)
    assert len(kept) <= 42
    assert sum(math.isfinite(value) for _, value in kept) >= 16  # of the eight stretches with numbers, both ends


def journal(home, attempts, job="told"):
    """Write a job's journal: of every attempt a start, and (name, step, value) of what it told."""
    folder = home / "jobs" / job
    folder.mkdir(parents=True, exist_ok=True)
    start = {"k": "start", "t": 1, "name": job, "params": {}, "pid": 1, "host": "elsewhere"}
    with (folder / paths.JOURNAL).open("a") as file:
        for told in attempts:
            file.write(json.dumps(start) + "\n")
            for name, step, value in told:
                file.write(json.dumps({"k": "metric", "t": 2, "name": name, "step": step, "value": value}) + "\n")
    return folder


def by_hand(attempts, name):
    """Return the points of a curve as the documentation says, from all that was told: (step, value) in order."""
    found = {}
    for told in attempts:
        mine = {step: value for one, step, value in told if one == name}
        found = {step: value for step, value in found.items() if not mine or step < min(mine)} | mine
    return sorted(found.items())


STEPS = st.one_of(
    st.tuples(st.integers(-5, 3000), st.integers(1, 1500)).map(lambda given: [*range(given[0], sum(given))]),
    st.lists(st.integers(0, 400), min_size=1, max_size=400),  # in no order, and some again
    st.permutations(range(300)),
)
VALUES = st.sampled_from([0.5, math.nan, math.inf, -math.inf, -3.0, 7.25]) | st.floats(-10, 10)


@pytest.mark.slow
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    max_examples=settings().max_examples // 2,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink what fails here takes minutes
)
@given(st.data())
def test_a_curve_is_what_was_told_whatever_the_order_the_attempts_and_the_looks_meanwhile(store, home, data):
    job = uuid.uuid4().hex
    attempts, folder = [], None
    for _ in range(data.draw(st.integers(1, 3), label="attempts")):
        steps = data.draw(STEPS, label="steps")
        drawn = random.Random(data.draw(st.integers(0, 2**16), label="seed"))
        some = data.draw(st.lists(VALUES, min_size=1, max_size=4), label="values")
        attempts.append([])
        for number, part in enumerate(parts(steps, data.draw(st.integers(1, 4), label="moves"))):
            told = [("a", step, drawn.choice([*some, drawn.random()])) for step in part]
            attempts[-1] += told
            folder = journal(home, [told], job) if number == 0 else more(folder, told)
            store.move(job, folder)
    points = by_hand(attempts, "a")
    window = sorted(data.draw(st.tuples(*[st.integers(points[0][0] - 2, points[-1][0] + 2)] * 2), label="window"))
    is_of_all_points(store, job, attempts, window, data.draw(st.integers(4, 60), label="most"))


def is_of_all_points(store, job, attempts, window, most):
    """Assert that the curve and the figures of a job's metric "a" are those of a loop over all that was told."""
    points = by_hand(attempts, "a")
    close = plain(points)
    assert plain(store.read(curves.curve, job, "a", len(points))) == close
    assert plain((step, value) for step, value, _ in store.metric(job, "a")) == close
    figures = store.read(of_metrics, job)["a"]
    good = [value for _, value in points if not math.isnan(value)]
    ends = (min(good, default=None), max(good, default=None))
    assert (figures["count"], figures["least"], figures["greatest"]) == (len(points), *ends)
    last = [told for told in attempts if told][-1][-1]
    assert plain([(figures["step"], figures["value"])]) == plain([last[1:]])
    first, last = window
    inside = [point for point in points if first <= point[0] <= last]
    seen = store.read(curves.curve, job, "a", most, first, last)
    assert len(seen) <= max(most, 7)  # both ends of all, of one stretch both extremes and each kind that is none
    assert set(plain(seen)) <= set(plain(inside))
    assert [step for step, _ in seen] == sorted({step for step, _ in seen})
    assert [one[:1] + one[-1:] for one in (plain(seen), plain(inside))][0] == plain(inside[:1] + inside[-1:])
    if most >= 7:
        assert {str(value) for _, value in inside if not math.isfinite(value)} <= {str(value) for _, value in seen}
    good = [value for _, value in inside if not math.isnan(value)]
    assert {min(good, default=0.0), max(good, default=0.0)} <= {value for _, value in seen} | {0.0}


def lived(rng):
    """Return batches of what a job told: of each the pieces, and whether a new process told them (rarely the first)."""
    kind, batches, at = rng.choice(["onward", "mixed", "few", "fits"]), [], 0
    for number in range(rng.randint(1, 14)):
        pieces = [(number == 0, [])]
        for _ in range(rng.choice([1, 3, 40, 200])):
            if rng.random() < 0.02:
                pieces.append((True, []))
                at = rng.randint(0, at)
            if kind == "fits" and rng.random() < 0.01:
                at = 0
            at += rng.choice([1, 1, 2, 5])
            step = {"mixed": rng.randint(-200, 400), "few": rng.randint(0, 40)}.get(kind, at)
            value = rng.choice([math.nan, math.inf, -math.inf]) if rng.random() < 0.01 else rng.gauss(0, 1)
            pieces[-1][1].append(("a", step, value))
        batches.append(pieces)
    return batches


@pytest.mark.slow  # curves of many attempts
def test_figures_and_curves_are_a_loops_however_batches_attempts_and_fits_come(store, home):
    """Also once the database is made anew from the journals, which brings all attempts in one batch."""
    rng = random.Random(0)
    for number in range(25):
        job, attempts = f"job-{number}", []
        for pieces in lived(rng):
            for is_new, told in pieces:
                attempts += [[]] * is_new
                attempts[-1] = [*attempts[-1], *told]
                folder = journal(home, [told], job) if is_new else more(home / "jobs" / job, told)
            store.move(job, folder)
            window = sorted([rng.randint(-250, 450), rng.randint(-250, 450)])
            is_of_all_points(store, job, attempts, window, 20)
        store.remove(job)
        store.move(job, folder)
        is_of_all_points(store, job, attempts, window, 20)


SPIKE = [("a", step, 99.0 if step == 15 else 1.0) for step in range(5, 801, 5)]


@pytest.mark.parametrize(
    "batches",
    [
        pytest.param([[("a", step, 1.0) for step in range(10, 401, 10)], SPIKE], id="a second fit with a spike"),
        pytest.param([[("a", step, 1.0) for step in range(10, 331, 10)] + [("a", 15, 50.0)], [("a", 10, 2.0)],
                      [("a", 15, 1.0)]], id="a spike that is told again"),
    ],
)  # fmt: skip
def test_a_spike_among_steps_that_are_told_again_is_the_greatest_until_it_is_told_again(store, home, batches):
    for number, told in enumerate(batches):
        store.move("told", more(home / "jobs" / "told", told) if number else journal(home, [told]))
    is_of_all_points(store, "told", [sum(batches, [])], (0, 100), 20)


def parts(steps, count):
    """Return steps in so many parts at most."""
    size = -(-len(steps) // count)
    return [steps[start : start + size] for start in range(0, len(steps), size)]


def more(folder, told):
    with (folder / paths.JOURNAL).open("a") as file:
        for name, step, value in told:
            file.write(json.dumps({"k": "metric", "t": 2, "name": name, "step": step, "value": value}) + "\n")
    return folder


def plain(points):
    """Return points with None for nan, which is not equal to itself."""
    return [(step, None if math.isnan(value) else value) for step, value in points]


@pytest.fixture
def asked(store):
    """The queries that the store has made, and the rows that each gave."""
    found = []

    @sql.event.listens_for(store.engine, "after_cursor_execute")
    def note(_connection, cursor, statement, *_):
        found.append(statement)

    return found


@pytest.mark.parametrize("count", [2**13, 2**16])
def test_a_curve_is_numpys_of_all_points_and_costs_the_same_however_many_there_are(
    store, home, asked, monkeypatch, count
):
    """Stretches of ours and of numpy's begin alike where counts are powers of two."""
    rng = np.random.default_rng(0)
    values = np.cumsum(rng.normal(size=count))
    values[count // 3] = 1e4
    store.move("told", journal(home, [[("loss", step, value) for step, value in enumerate(values.tolist())]]))
    read = []
    downsampled = curves.downsampled
    monkeypatch.setattr(
        curves, "downsampled", lambda points, most: read.append(len(points)) or downsampled(points, most)
    )
    del asked[:]
    found = store.read(curves.curve, "told", "loss", 1200)
    assert len(asked) <= 12
    assert read[0] <= 16 * 1200
    assert len(found) <= 1200
    steps, seen = np.array(found).T
    assert (seen == values[steps.astype(int)]).all()
    assert 1e4 in seen
    edges = np.linspace(0, count, 599 + 1).astype(int)
    for reduce, at_least in ((np.maximum, 1), (np.minimum, -1)):
        wanted = at_least * reduce.reduceat(values, edges[:-1])
        near = [(edges[max(place - 2, 0)], edges[min(place + 3, 599)]) for place in range(599)]  # two beside it
        shown = np.array([(at_least * seen[(steps >= low) & (steps < high)]).max() for low, high in near])
        beside = np.array([wanted[max(place - 2, 0) : place + 3].max() for place in range(599)])
        assert (wanted <= shown).all()
        assert (shown <= beside).all()


@pytest.mark.parametrize(("is_in_order", "most"), [(True, 100 + 2 * curves.SIZE), (False, 1024)])
def test_of_steps_that_are_told_again_the_points_of_their_stretches_are_read_and_each_once(
    store, home, monkeypatch, is_in_order, most
):
    steps = [*range(1024)]
    if not is_in_order:
        random.Random(0).shuffle(steps)
    for number, part in enumerate(parts([("a", step, 1.0) for step in steps], 32)):  # a stretch in each
        store.move("told", more(home / "jobs" / "told", part) if number else journal(home, [part]))
    read, told = [], curves.told
    monkeypatch.setattr(curves, "told", lambda *given: (read.append(point) or point for point in told(*given)))
    store.move("told", more(home / "jobs" / "told", [("a", step, 2.0) for step in range(500, 600)]))
    assert len({step for step, _ in read}) <= most
    assert len(read) <= most + 100  # those that are told again are there twice
