"""The pages as a person sees them: a real Airflow API server, a real headless Chromium."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import unquote
from urllib.request import urlopen

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.dags.plugin.airflow_server import PASSWORD, USER, airflow_server
from tests.dags.plugin.ledger_world import DAYS, RUN, SPACE

pytestmark = pytest.mark.slow

BROWSER = shutil.which("chromium") or "/usr/bin/chromium"
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
]  # fmt: skip
PATIENCE_MS = 180_000
SIZE = {"width": 1280, "height": 860}


@pytest.fixture(scope="module")
def address(trained_world, tmp_path_factory):
    dag, run, *_ = RUN.split("/")
    folder = tmp_path_factory.mktemp("airflow")
    with airflow_server(folder, trained_world.conf, trained_world.root, run=(dag, run, DAYS[5])) as found:
        yield found


@pytest.fixture(scope="module")
def context(address):
    """A browser that has logged in at Airflow's own form."""
    if not Path(BROWSER).exists():
        pytest.skip("Chromium is not installed: apt-get install chromium")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=ARGUMENTS)
        made = browser.new_context(viewport=SIZE)
        made.set_default_timeout(PATIENCE_MS)
        page = made.new_page()
        page.goto(address)
        page.fill("input[name=username]", USER)
        page.fill("input[name=password]", PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_url(lambda url: "login" not in url)
        page.close()
        yield made
        browser.close()


@pytest.fixture
def page(context):
    """A page that records what it asks of whom, and the answers' status."""
    made = context.new_page()
    made.asked, made.answers = [], {}
    made.on("request", lambda request: made.asked.append(request.url))
    made.on("response", lambda answer: made.answers.update({unquote(answer.url): answer.status}))
    yield made
    made.close()


def open_frame(page, address, name):
    """The page inside Airflow's UI, once it shows its answer."""
    page.goto(f"{address}/plugin/loopfm-{name}")
    frame = page.frame_locator("iframe")
    expect(frame.locator("#content")).to_be_visible()
    return frame


def cell(frame, table, day):
    return frame.locator(f'[role=gridcell][aria-label^="{table}, {day}:"]')


def save(page, name):
    """Keep a picture for the documentation where the environment names a folder for it."""
    folder = os.environ.get("LOOPFM_SCREENSHOTS")
    if folder:
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


@pytest.mark.parametrize("path", ["coverage", "vms", "static/coverage.js", "api/projects", "api/projects/small/vms"])
def test_a_request_without_login_gets_401(address, path):
    with pytest.raises(HTTPError) as error:
        urlopen(f"{address}/loopfm/{path}")
    assert error.value.code == 401


def test_a_gap_is_clicked_and_its_backfill_line_is_ready(page, address):
    frame = open_frame(page, address, "coverage")
    assert cell(frame, f"fm_outputs {SPACE}", DAYS[4]).get_attribute("data-state") == "failed"
    assert cell(frame, f"segments {SPACE}", DAYS[5]).get_attribute("data-state") == "stale"
    cell(frame, f"segments {SPACE}", DAYS[4]).click()
    line = f"loopfm backfill conf/small.yaml --from {DAYS[3]} --to {DAYS[5]} --space {SPACE}"
    expect(frame.locator("#backfill")).to_contain_text(line.split("small.yaml")[1])
    expect(frame.locator("#selected")).to_contain_text("2 missing, 1 stale")
    assert {url.split("/")[2] for url in page.asked if url.startswith("http")} == {address.split("/")[2]}


def test_a_click_shows_the_attempt_and_leads_to_the_run(page, address):
    frame = open_frame(page, address, "coverage")
    cell(frame, f"fm_outputs {SPACE}", DAYS[2]).click()
    detail = frame.locator("#detail")
    expect(detail).to_contain_text("Fed these models")
    for text in ("Attempt 1: done", "1,000, 0 rejected", "fm_inputs 0", "c0ffee", "loopfm-small-feed version 1"):
        expect(detail).to_contain_text(text)
    dag, run, task, index = RUN.split("/")
    asked = f"{address}/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{task}/{index}"
    with page.expect_response(lambda answer: unquote(answer.url) == asked) as expected:
        frame.locator("a.run").first.click()
    assert unquote(page.url).startswith(f"{address}/dags/{dag}/runs/{run}/tasks/{task}/mapped/{index}")
    found = expected.value.json()
    assert (found["dag_id"], found["dag_run_id"], found["task_id"], found["state"]) == (dag, run, task, "success")
    expect(page.get_by_text(task).first).to_be_visible()
    assert [url for url, status in page.answers.items() if f"/dagRuns/{run}" in url and status >= 400] == []


def test_the_grid_works_from_the_keyboard(page, address):
    frame = open_frame(page, address, "coverage")
    cell(frame, "examples", DAYS[5]).focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowLeft"):
        page.keyboard.press(key)
    expect(cell(frame, "labels", DAYS[4])).to_be_focused()
    assert frame.locator('[role=gridcell][tabindex="0"]').count() == 1
    page.keyboard.press("Shift+ArrowLeft")
    expect(frame.locator("#backfill")).to_contain_text(f"--from {DAYS[3]} --to {DAYS[4]}")
    page.keyboard.press("Escape")
    expect(frame.locator("#gap")).to_be_hidden()
    page.keyboard.press("Home")
    expect(cell(frame, "labels", DAYS[0])).to_be_focused()
    page.keyboard.press("Enter")
    expect(frame.locator("#detail")).to_contain_text(f"labels {DAYS[0]}")
    names = frame.locator("[role=gridcell]").evaluate_all("cells => cells.filter(c => !c.ariaLabel).length")
    assert names == 0


def test_vms_show_value_series_and_lineage(page, address):
    frame = open_frame(page, address, "vms")
    feed = frame.locator(".vertical").first
    expect(feed).to_contain_text("The FM gains +0.1100 NE over base")
    expect(feed.locator("svg .curve")).not_to_have_count(0)
    frame.get_by_role("button", name="Lineage of feed version 1").click()
    panel = feed.locator(".panel")
    for text in ("vm-commit", "raw_histories", SPACE, "loopfm-small-fm version 1", "fm-commit"):
        expect(panel).to_contain_text(text)
    frame.get_by_role("textbox", name="Partition").fill(DAYS[3])
    frame.get_by_role("button", name="Show").click()
    expect(frame.locator("#fed")).to_contain_text("validation")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_themes_follow_airflow(page, address, theme):
    page.goto(address)
    page.evaluate("theme => localStorage.setItem('theme', theme)", theme)
    frame = open_frame(page, address, "coverage")
    root = frame.locator("html")
    expect(root).to_have_attribute("data-theme", theme)
    background = frame.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
    assert (int(background.removeprefix("rgb(").split(",")[0]) < 128) == (theme == "dark")
    cell(frame, f"fm_outputs {SPACE}", DAYS[4]).click()
    expect(frame.locator("#detail")).to_contain_text("BadDataError")
    save(page, f"coverage_{theme}")
    frame = open_frame(page, address, "vms")
    frame.get_by_role("button", name="Lineage of feed version 1").click()
    expect(frame.locator(".panel")).to_contain_text("vm-commit")
    save(page, f"vms_{theme}")
