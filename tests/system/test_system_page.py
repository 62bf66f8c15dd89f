"""The page in a real browser: headless Chromium against deterministic data, under the real CSP."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.page.browser import CHROMIUM, DRIVER, Browser
from tests.page.mock_data import SCENES
from tests.page.mock_server import MockServer

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"),
]
ROWS = "return document.querySelectorAll('#plan-table tbody tr').length"
FOCUS = """const e = document.activeElement;
return e.id || e.dataset.id || e.className"""
SELECTED = "return document.querySelector('#plan-table [aria-selected=true]')?.dataset.id"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser(width=1600, height=1000) as started:
        yield started


@pytest.fixture
def server() -> Iterator[MockServer]:
    with MockServer("nvl72") as started:
        yield started


def show(
    browser: Browser, server: MockServer, *, width: int = 1600, dark: bool = False, rows: int = 70
) -> None:
    """Open the page at a width and wait until telemetry, plans and their history are on it."""
    browser.open("about:blank")
    browser.log()
    screen = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.cdp("Emulation.setDeviceMetricsOverride", screen)
    browser.media(dark=dark)
    browser.open(server.url + "/")
    browser.until(lambda: browser.js(ROWS) >= rows and browser.text("#link-text") == "Live")


def faults(browser: Browser) -> list[str]:
    return [line for line in browser.log() if line.startswith(("SEVERE", "WARNING"))]


def test_shows_the_cluster_without_breaking_its_csp(browser, server):
    show(browser, server)
    assert browser.text("#t-gpus").startswith("71 of 72")
    assert "kW" in browser.text("#t-power")
    assert browser.visible("#simulated")
    assert "1 GPU dead: nvl72-tray-05/2" in browser.text("#fabric-text")
    assert "1 link down: nvl72-tray-11/1->nvswitch" in browser.text("#fabric-text")
    assert "under the budget of 81.4 kW" in browser.text("#power-text")
    assert "% before and +3" in browser.text("#load-text")
    assert not browser.visible("#banner")
    assert faults(browser) == []


def test_everything_comes_from_the_server_itself(browser, server):
    show(browser, server)
    urls = browser.js("return performance.getEntriesByType('resource').map(e => e.name)")
    assert len(urls) > 10
    assert all(url.startswith(server.url) for url in urls)


def painted(browser: Browser, selector: str) -> int:
    """How many pixels of the canvases under an element are not empty."""
    return browser.js(
        """return [...document.querySelectorAll(arguments[0] + ' canvas')].reduce((n, c) => {
             const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
             for (let i = 3; i < d.length; i += 4) if (d[i]) n += 1;
             return n; }, 0)""",
        selector,
    )


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1600])
def test_fits_and_paints_at_every_width(browser, server, width, dark):
    show(browser, server, width=width, dark=dark)
    assert browser.js("return document.documentElement.scrollWidth <= innerWidth")
    for chart in ("#fabric-graph", "#power-chart", "#load-chart"):
        browser.until(lambda chart=chart: painted(browser, chart) > 500)
    ground = browser.js("return getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(20, 23, 27)") == dark
    assert faults(browser) == []


@pytest.mark.parametrize("scene", SCENES)
def test_every_kind_of_fabric_is_drawn(browser, scene):
    with MockServer(scene) as server:
        show(browser, server)
        browser.until(lambda: painted(browser, "#fabric-graph") > 500)
        gpus = len(server.scene.gpus)
        assert f"{gpus:,} GPUs" in browser.text("#fabric-text")
        browser.click("#fabric-mode input[value=planned]")
        browser.until(lambda: "Busiest as planned" in browser.text("#fabric-text"))
        assert faults(browser) == []


def test_table_is_used_with_the_keyboard(browser, server):
    show(browser, server)
    browser.keys("Tab")
    assert browser.js(FOCUS) == "skip"
    browser.keys("Enter", "Tab")
    while not browser.js("return document.activeElement.matches('#plan-table tr')"):
        browser.keys("Tab")
    browser.keys("Home")
    first = browser.js(SELECTED)
    browser.keys("Down", "Down")
    third = browser.js(SELECTED)
    assert third != first
    assert browser.js(FOCUS) == third
    assert third in browser.text("#why-body")
    browser.keys("End")
    last = browser.js(SELECTED)
    rows = "return [...document.querySelectorAll('#plan-table tbody tr')].map(r => r.dataset.id)"
    assert browser.js(rows)[-1] == last
    browser.keys("Up")
    assert browser.js(SELECTED) == browser.js(rows)[-2]
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert browser.js(outline) == "solid"


def test_new_plans_move_neither_focus_nor_selection(browser, server):
    show(browser, server)
    browser.js("document.querySelectorAll('#plan-table tbody tr')[4].focus()")
    chosen = browser.js(SELECTED)
    before = browser.js(ROWS)
    browser.until(lambda: browser.js(ROWS) > before, 12)
    assert browser.js(SELECTED) == chosen == browser.js(FOCUS)
    assert chosen in browser.text("#why-body")


def test_filter_shows_one_planner_and_its_reasons(browser, server):
    show(browser, server)
    browser.click("#plan-filter input[value=nvlink]")
    names = """return [...document.querySelectorAll('#plan-table tbody td:first-child')]
        .map(c => c.innerText)"""
    browser.until(lambda: set(browser.js(names)) == {"nvlink"})
    assert "no bound: no bound is known for this problem" in browser.text("#why-body")
    gain = """return document.querySelector(
        '#plan-table [aria-selected=true] td:nth-child(8)').innerText"""
    minus = chr(0x2212)
    assert browser.js(gain).startswith(f"{minus}0.00"), "a loss is shown as it is"
    browser.click("#plan-filter input[value=routing]")
    browser.until(lambda: set(browser.js(names)) == {"routing"})
    assert "instead of qaoa: deadline of 0.2 s passed" in browser.text("#plan-table")


def test_a_cut_stream_is_said_and_nothing_stays_fresh(browser, server):
    show(browser, server)
    server.cut = True
    browser.until(lambda: browser.visible("#banner"))
    assert "Disconnected" in browser.text("#banner")
    assert "current" not in browser.text("#plan-table tbody")
    assert "last known" in browser.text("#plan-table tbody")
    age = browser.text("#t-age")
    browser.until(lambda: browser.text("#t-age") != age)
    assert browser.js("return document.body.dataset.fresh") == "no"
    server.cut = False
    browser.until(lambda: browser.text("#link-text") == "Live", 30)
    browser.until(lambda: not browser.visible("#banner"))
    assert "current" in browser.text("#plan-table tbody")


def test_telemetry_that_stands_still_is_called_old(browser, server):
    show(browser, server)
    server.frozen_at = time.time() - 60
    browser.until(lambda: "data is old" in browser.text("#link-text"))
    assert "telemetry stands still" in browser.text("#banner")
    assert int(browser.text("#t-age").split()[0]) >= 60


def test_an_open_but_silent_stream_is_noticed(browser, server):
    show(browser, server)
    server.silent = True
    browser.until(lambda: browser.text("#link-text") == "Silent", 20)
    assert "silent" in browser.text("#banner")
    server.silent = False
    browser.until(lambda: browser.text("#link-text") == "Live")


def test_a_stale_plan_raises_an_alarm(browser, server):
    show(browser, server)
    server.stale = "planner does not answer; this is its last safe plan"
    browser.until(lambda: browser.visible("#alarms"))
    assert "routing: planner does not answer" in browser.text("#alarms")
    assert "stale" in browser.text("#plan-table tbody")
    assert "does not answer" in browser.text("#status")
    server.stale = None
    browser.until(lambda: not browser.visible("#alarms"))


def test_a_lost_gpu_is_announced(browser, server):
    show(browser, server)
    server.scene.dead = {*server.scene.dead, "nvl72-tray-00/0"}
    browser.until(lambda: browser.text("#t-gpus").startswith("70 of 72"))
    assert "1 GPU lost: nvl72-tray-00/0" in browser.text("#status")


def test_a_guarded_server_gets_its_token(browser, server):
    server.token = "correct horse"
    browser.open(server.url + "/")
    browser.until(lambda: browser.visible("#token-form"))
    assert browser.js(FOCUS) == "token"
    browser.keys(*"wrong", "Enter")
    browser.until(lambda: browser.js("return document.querySelector('#token').value") == "")
    browser.until(lambda: browser.visible("#token-form"))
    browser.keys(*"correct horse", "Enter")
    browser.until(lambda: browser.text("#link-text") == "Live")
    assert not browser.visible("#token-form")
    assert "correct" not in browser.js("return location.href")


def test_tables_hold_what_the_graph_shows(browser, server):
    show(browser, server)
    browser.click("#gpu-details summary")
    browser.until(lambda: "nvl72-tray-05/2" in browser.text("#gpu-table"))
    rows = browser.js(
        "return [...document.querySelectorAll('#gpu-table tbody tr')].map(r => r.innerText)"
    )
    assert len(rows) == 72
    assert "dead" in next(row for row in rows if row.startswith("nvl72-tray-05/2"))
    assert browser.text("#link-table tbody tr").startswith("nvl72-tray-11/1->nvswitch")
    assert "train-70b" in rows[0]


def test_assistive_technology_finds_names(browser, server):
    show(browser, server)
    nodes = browser.cdp("Accessibility.getFullAXTree", {})["nodes"]
    seen = [
        (n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n["ignored"]
    ]
    roles = {role for role, _ in seen}
    assert {"banner", "main", "grid", "status", "heading", "radio"} <= roles
    assert ("grid", "Plans") in seen
    nameless = [
        r for r, name in seen if r in ("radio", "link", "textbox", "button", "region") and not name
    ]
    assert nameless == []


FLOOD = """
const { State, LIMITS } = await import('/ui/state.js');
const state = new State();
for (let i = 0; i < 5000; i += 1) {
  const event = { ts_s: i, kind: 'link_down', subject: 's' + i, detail: '' };
  state.takeSnapshot({ seq: i, ts_s: i, gpus: ['n/0'], power_w: [i], events: [event] });
  state.takePlan('routing', { plan_id: 'p' + i, created_at: i, slots: new Array(1000).fill(i) });
}
return { samples: state.samples.length, plans: state.plans.size, events: state.events.length,
  limits: LIMITS, newest: state.samples.at(-1),
  fields: Object.keys(state.plans.values().next().value) };
"""


def test_memory_is_bounded(browser, server):
    show(browser, server)
    held = browser.js(f"return (async () => {{ {FLOOD} }})()")
    assert {name: held[name] for name in ("samples", "plans", "events")} == held["limits"]
    assert "slots" not in held["fields"], "a plan's large arrays are not kept"
    assert held["newest"][:2] == [4999, 4999]


PARSE = """
const { Stream } = await import('/ui/stream.js');
const got = [];
const onEvent = (type, content) => got.push([type, content]);
const stream = new Stream('/none', { onEvent, onState() {}, headers: () => ({}) });
const bytes = new TextEncoder().encode(
  'id: 7\\nevent: plan\\ndata: {"a":\\ndata: "é"}\\n\\n' +
  ': comment\\n\\ndata: broken\\n\\nevent: x\\ndata: 1\\n\\n');
await stream.read(new ReadableStream({ start(controller) {
  for (const byte of bytes) controller.enqueue(new Uint8Array([byte]));
  controller.close();
} }));
return { got, id: stream.lastId };
"""


def test_events_are_parsed_however_they_are_cut_up(browser, server):
    show(browser, server)
    result = browser.js(f"return (async () => {{ {PARSE} }})()")
    assert result == {"got": [["plan", {"a": "é"}], ["x", 1]], "id": "7"}


class Bare:
    """A scene whose server says no more than it must."""

    gpus = ("n/0", "n/1")

    def snapshot(self, tick: int, ts_s: float) -> dict:
        return {"seq": tick, "ts_s": ts_s, "gpus": list(self.gpus)}

    def plan(self, planner: str, tick: int, now: float) -> dict:
        return {"plan_id": f"{tick}-{planner}", "created_at": now, "objective": 1.0}


class BareServer(MockServer):
    def answer(self, path: str) -> dict | None:
        return super().answer(path) if path == "/v1/plans" else None


def test_missing_fields_leave_gaps_and_no_errors(browser):
    with BareServer(Bare()) as server:
        show(browser, server, rows=3)
        assert browser.text("#t-gpus") == "2 of 2"
        assert browser.text("#t-power") == chr(0x2013)
        assert "no bound: no reason given" in browser.text("#why-body")
        errors = [line for line in faults(browser) if " 404 " not in line]
        assert errors == []


def test_motion_is_reduced_on_request(browser, server):
    show(browser, server)
    browser.media(reduced_motion=True)
    moving = browser.js(
        """return [...document.querySelectorAll('*')].filter(e => {
             const s = getComputedStyle(e);
             return s.transitionDuration !== '0s' || s.animationName !== 'none'; }).length"""
    )
    assert moving == 0


def test_a_replayed_trace_that_stands_still_is_not_fresh_to_a_new_page(browser, server):
    server.started -= 300
    server.frozen_at = time.time() - 60
    replayed = server.scene.snapshot
    server.scene.snapshot = lambda *a: {**replayed(*a), "ts_s": 1e9, "sources": ["replay:x.csv"]}
    browser.open(server.url + "/")
    browser.until(lambda: re.match("[6-9][0-9] s", browser.text("#t-age")))
    assert browser.text("#link-text") == "Connected, data is old"
    assert "telemetry stands still" in browser.text("#banner")


class Mute(MockServer):
    """A server that has no telemetry yet."""

    def snapshot(self) -> None:
        return None

    def answer(self, path: str) -> dict | None:
        return None if path == "/v1/telemetry/latest" else super().answer(path)


def test_a_server_without_telemetry_is_not_said_to_have_old_data(browser):
    with Mute("nvl72") as server:
        browser.open(server.url + "/")
        browser.until(lambda: browser.text("#link-text") == "Connected, no data yet")
        browser.until(lambda: "has no telemetry. No data has come yet." in browser.text("#banner"))
        assert browser.text("#t-age") == chr(0x2013)


@pytest.fixture(scope="module")
def live_url() -> Iterator[str]:
    """The real API, hub, store and planners on simulated telemetry, without Ray."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = Path(__file__).parents[1] / "page" / "live_server.py"
    process = subprocess.Popen([sys.executable, str(script), "--port", str(port)])
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        assert process.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(f"{url}/readyz") as response:
                return response.status == 200
        except urllib.error.URLError:
            return False

    ends = time.monotonic() + 120
    while not ready():
        assert time.monotonic() < ends, "no plans within 120 s"
        time.sleep(0.2)
    yield url
    process.send_signal(signal.SIGINT)
    process.wait(20)


def test_real_planners_fill_the_page(browser, live_url):
    browser.open("about:blank")
    browser.log()
    browser.open(live_url + "/")
    states = """return Object.fromEntries([...document.querySelectorAll('#plan-table tbody tr')]
        .filter(r => r.dataset.state === 'current')
        .map(r => [r.cells[0].innerText, [...r.cells].map(c => c.innerText)]))"""
    current = browser.until(lambda: len(found := browser.js(states)) == 4 and found, 30)
    dash = chr(0x2013)
    for planner, cells in current.items():
        objective, bound, gap, solver = cells[3:7]
        assert dash not in (objective, bound, gap, solver), planner
    assert browser.text("#t-gpus") == "72 of 72"
    assert "W" in browser.text("#t-power")
    assert "under the budget" in browser.text("#power-text") or "OVER" in browser.text(
        "#power-text"
    )
    assert "above the even share" in browser.text("#load-text")
    for chart in ("#fabric-graph", "#power-chart", "#load-chart"):
        browser.until(lambda chart=chart: painted(browser, chart) > 500)
    browser.click("#fabric-mode input[value=planned]")
    browser.until(lambda: "Busiest as planned" in browser.text("#fabric-text"))
    browser.click("#gpu-details summary")
    browser.until(lambda: " W" in browser.text("#gpu-table tbody tr td:nth-child(4)"))
    assert faults(browser) == []


def test_api_description_needs_nothing_from_outside(browser, live_url):
    browser.open("about:blank")
    browser.log()
    browser.open(live_url + "/docs")
    browser.until(lambda: "/v1/plans/{planner}/latest" in browser.text("#api"), 20)
    urls = browser.js("return performance.getEntriesByType('resource').map(e => e.name)")
    assert all(url.startswith((live_url, "data:")) for url in urls)
    assert faults(browser) == []


def test_many_events_leave_the_page_as_small_as_it_was(browser, server):
    server.rate = 40
    show(browser, server)
    for domain in ("Performance", "HeapProfiler"):
        browser.cdp(f"{domain}.enable", {})

    def size() -> dict[str, float]:
        browser.cdp("HeapProfiler.collectGarbage", {})
        metrics = browser.cdp("Performance.getMetrics", {})["metrics"]
        return {row["name"]: row["value"] for row in metrics}

    # The table is full after five minutes of plans; from then on nothing may grow.
    browser.until(lambda: browser.js(ROWS) == 240, 60)
    before = size()
    first = server.tick
    browser.until(lambda: server.tick - first > 600, 60)
    after = size()
    assert browser.js(ROWS) == 240
    assert after["JSHeapUsedSize"] < 1.3 * before["JSHeapUsedSize"] + 1e6
    assert after["Nodes"] < 1.2 * before["Nodes"]
    assert after["JSEventListeners"] <= before["JSEventListeners"]
