"""What a model wrote in reinforcement learning, on the page of its job: groups side by side, with what each earned."""

from __future__ import annotations

import json

import pytest

from tests.jobs.browsing import SECONDS, needs_chromium, playwright
from trainwright.jobs.store.store import Store
from trainwright.jobs.web import completions, server
from trainwright.jobs.worker import queue

pytestmark = pytest.mark.slow


def line(row, text, reward, advantage):
    return {"row": row, "prompt": f"p{row}", "completion": text, "tokens": 3, "finished": reward is not None,
            "rewards": {"right": reward}, "reward": reward, "advantage": advantage}  # fmt: skip


@pytest.fixture
def made(home, tmp_path):
    """A store with a job that has come to step 9, and three files of completions."""
    (tmp_path / "script.py").write_text("print('x')")
    store = Store()
    store.job = queue.submit(store, tmp_path / "script.py", {})
    folder = tmp_path / "out" / "completions"
    folder.mkdir(parents=True)
    for name, rows in {
        "step-2-0-2": [line(4, "<b>wrong</b>", 0.0, -0.7), line(4, "right", 1.0, 0.7), line(5, "none", None, 0.0)],
        "held-out-3-0-0": [line(0, "apart", 1.0, 0.0)],
        "step-40-0-40": [line(1, "of another run", 1.0, 0.0)],
    }.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    (folder / "step-1-0-1.jsonl").symlink_to("/etc/hostname")
    store.update(store.job, data={"output_dir": str(tmp_path / "out")}, step=9)
    yield store
    store.close()


def test_files_are_listed_by_step_and_groups_come_the_best_first(made):
    job = made.find(made.job)
    assert completions.listed(job) == [
        {"name": "step-2-0-2.jsonl", "step": 2, "held_out": False},
        {"name": "held-out-3-0-0.jsonl", "step": 3, "held_out": True},
    ]
    first, second = completions.groups(job, "step-2-0-2.jsonl")
    assert (first["row"], first["prompt"]) == (4, "p4")
    assert [one["text"] for one in first["completions"]] == ["right", "<b>wrong</b>"]
    assert second["completions"][0]["reward"] is None
    for outside in ("step-1-0-1.jsonl", "../run.json", "step-7-0-7.jsonl", ""):
        assert completions.groups(job, outside) == []


@needs_chromium
def test_the_page_shows_the_newest_file_and_any_other_that_is_chosen(made, browser):
    import threading

    import uvicorn

    app = server.application(made, "127.0.0.1", "token")
    running = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        thread.join(0.05)
    port = running.servers[0].sockets[0].getsockname()[1]
    page = browser.new_page()
    page.set_default_timeout(SECONDS)
    page.goto(f"http://127.0.0.1:{port}/?token=token")
    page.get_by_role("link", name="script").click()
    card = page.locator(".card", has=page.get_by_role("heading", name="Completions and rewards"))
    playwright.expect(card).to_contain_text("apart")
    card.get_by_role("combobox").select_option("after step 2")
    playwright.expect(card.locator("caption").first).to_have_text("row 4: p4")
    assert card.locator("tbody").first.locator("tr").all_inner_texts() == [
        "0.7\t1\t3\tright",
        "-0.7\t0\t3\t<b>wrong</b>",
    ]
    assert card.locator("tbody").nth(1).inner_text() == "0\tnone\t3, cut off\tnone"
    page.close()
    running.should_exit = True
    thread.join()
