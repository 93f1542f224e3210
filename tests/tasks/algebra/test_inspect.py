"""The picture of a run's success: what is drawn, against the rows that it is drawn from."""

from __future__ import annotations

import json

from matplotlib.figure import Figure

from trainwright.tasks.algebra.inspect import plot

RESULTS = {
    4: [True],
    8: [True, False, False, False],
    16: [True, True, False, False],
    128: [True, True, True, False],
    1024: [],
}
LENGTHS = [3, 4, 40, 300]


def rows(right):
    return [{"correct": one, "length": length} for one, length in zip(right, LENGTHS, strict=False)]


def test_success_is_drawn_over_steps_and_by_the_length_of_answers(tmp_path, monkeypatch):
    (tmp_path / "eval_results").mkdir()
    for step, right in RESULTS.items():
        (tmp_path / "eval_results" / f"step_{step}.json").write_text(json.dumps(rows(right)))
    drawn, savefig = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *given, **more: drawn.append(self) or savefig(self, *given, **more)
    )
    path = plot(tmp_path, rows(RESULTS[128]))
    assert path == tmp_path / "success.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    left, right = drawn[0].axes
    (line,) = left.lines
    assert line.get_xydata().tolist() == [[4, 1.0], [8, 0.25], [16, 0.5], [128, 0.75], [1024, 0.0]]
    assert line.get_marker() == "o"  # or a run with one evaluation would show nothing
    assert [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in right.patches] == [(0, 1), (1, 1), (2, 0)]
    assert [one.get_text() for one in right.get_xticklabels()] == ["1-4", "33-64", "above 256"]
    assert (left.get_xlabel(), left.get_ylabel(), right.get_xlabel()) == (
        "step", "share of right answers", "tokens of the answer"
    )  # fmt: skip
    assert left.get_ylim() == right.get_ylim() == (0, 1.02)  # all right is still seen
    assert not any(axes.spines[side].get_visible() for axes in (left, right) for side in ("top", "right"))
