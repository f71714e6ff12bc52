"""The page in a real Chromium without a network: what a person sees, clicks and types."""

import json
import shutil
import time

import pytest

from tests.report.test_serve import Served
from tpo_dist.bench.report_page import make_folder
from tpo_dist.programs.group_log import GROUPS
from tpo_dist.report.gather import gather
from tpo_dist.report.page import render, write_page

HOSTILE = (
    "<script>document.title = 'taken'</script>",
    "<img src=x onerror=\"document.title = 'taken'\">",
    "</script></pre><b id=injected>bold</b><!--",
    "right \u202eto left\u202c \u0000 NUL \u0007 bell",
    "long " * 3000,
    "{{ 7 * 7 }} ${7 * 7} &lt;b&gt; javascript:alert(1)",
)


@pytest.fixture(scope="module")
def driver():
    """Headless Chromium that reaches files and loopback alone."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.skip("needs chromium and chromedriver (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.chrome.service.Service(programs[1])
    chrome = webdriver.Chrome(options=options, service=service)
    yield chrome
    chrome.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Two runs, one of them with ten thousand groups, in one file."""
    parent = tmp_path_factory.mktemp("runs")
    make_folder(parent / "large", 10_000, candidates=4)
    make_folder(parent / "small", 60, candidates=4)
    group = json.loads((parent / "small" / GROUPS).read_text().splitlines()[-1])
    size = len(HOSTILE)
    for name in ("p_old", "p_after", "q", "logps_old", "logps_after"):
        group[name] = [1 / size] * size
    group |= {"step": 9999, "draw": 77_777, "source": "<i>task</i>", "prompt": HOSTILE[2], "answer": HOSTILE[1]}
    group |= {"texts": HOSTILE, "lengths": [3] * size, "scores": [1.0] * size, "zero_variance": True, "distance": 0.0}
    group["stops"] = ["length", *["stop"] * (size - 1)]
    with (parent / "small" / GROUPS).open("a") as file:
        file.write(json.dumps(group) + "\n")
    path = parent / "page.html"
    write_page(path, render([gather(parent / "large"), gather(parent / "small")]))
    return path


@pytest.fixture
def shown(driver, page):
    """The page, opened anew and at rest."""
    return opened(driver, page.as_uri())


def opened(driver, address, width=1280):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get_log("browser")
    driver.get(address)
    until(driver, "document.documentElement.dataset.groups && document.documentElement.dataset.charts")
    return driver


def until(driver, condition, seconds=60):
    end = time.monotonic() + seconds
    while not driver.execute_script(f"return Boolean({condition})"):
        assert time.monotonic() < end, f"waited {seconds} s for {condition}"
        time.sleep(0.05)


def set_filter(driver, name, value):
    script = """
        const field = document.getElementById(arguments[0]);
        field.value = arguments[1];
        field.dispatchEvent(new Event("input", { bubbles: true }));"""
    driver.execute_script(script, name, value)


def count(driver):
    return driver.execute_script("return document.getElementById('count').textContent")


def texts(driver, selector):
    return driver.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((each) => each.textContent)", selector
    )


def key(driver, name):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    ActionChains(driver).send_keys(getattr(Keys, name)).perform()


def faults(driver):
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def test_it_opens_without_a_network_and_without_a_complaint(shown):
    assert count(shown) == "10,061 groups, page 1 of 403"
    assert shown.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert len(texts(shown, ".chart")) == shown.execute_script("return Bokeh.documents.length") == 3
    assert faults(shown) == []


def test_groups_are_filtered_ordered_and_paged(shown, page):
    rows = [json.loads(line) for line in (page.parent / "large" / GROUPS).read_text().splitlines()[1:]]
    set_filter(shown, "f-run", "0")
    set_filter(shown, "f-zero", "1")
    set_filter(shown, "f-source", "copy")
    set_filter(shown, "f-from", "2000")
    wanted = [row for row in rows if row["zero_variance"] and row["source"] == "copy" and row["step"] >= 2000]
    pages = -(-len(wanted) // 25)
    until(shown, f"document.getElementById('count').textContent.startsWith('{len(wanted)} of')")
    assert count(shown) == f"{len(wanted)} of 10,061 groups, page 1 of {pages}"
    assert len(texts(shown, ".row")) == 25
    set_filter(shown, "f-order", "distance")
    top = max(row["distance"] for row in wanted)
    until(shown, f"document.querySelector('.row .moved').textContent === 'Σ|q−p| {top:.2f}'")
    shown.find_element("id", "next").click()
    assert count(shown).endswith(f"page 2 of {pages}")
    shown.execute_script("document.querySelector('#filters [type=reset]').click()")
    until(shown, "document.getElementById('count').textContent.startsWith('10,061 groups, page 1')")
    set_filter(shown, "f-text", "{{ 7 * 7 }}")
    until(shown, "document.getElementById('count').textContent.startsWith('1 of')")
    set_filter(shown, "f-text", "nowhere at all")
    until(shown, "document.getElementById('count').textContent.startsWith('0 of')")


def test_the_keyboard_is_enough(shown):
    shown.execute_script("document.querySelector('.row').focus()")
    focused = "return [...document.querySelectorAll('.row')].indexOf(document.activeElement)"
    key(shown, "ARROW_DOWN")
    key(shown, "ARROW_DOWN")
    key(shown, "ARROW_UP")
    assert shown.execute_script(focused) == 1
    key(shown, "ENTER")
    until(shown, "document.querySelector('.row[aria-expanded=true] + .detail .card')")
    key(shown, "END")
    assert shown.execute_script(focused) == 24
    key(shown, "PAGE_DOWN")
    assert count(shown).endswith("page 2 of 403")
    assert shown.execute_script(focused) == 0


def test_candidates_stand_side_by_side_with_what_they_gained(shown, page):
    row = json.loads((page.parent / "large" / GROUPS).read_text().splitlines()[-4])  # the first of the last step
    set_filter(shown, "f-run", "0")
    shown.execute_script("document.getElementById('f-merge').click()")
    until(shown, "!document.querySelector('.row').textContent.includes('9999')")
    shown.execute_script("document.querySelector('.row').click()")
    until(shown, "document.querySelectorAll('.card').length === 4")
    gains = sorted((after - old for after, old in zip(row["p_after"], row["p_old"], strict=True)), reverse=True)
    words = [f"▲ gained {gain:.3f}" if gain > 0 else f"▼ lost {-gain:.3f}" for gain in gains]
    assert texts(shown, ".card .gain") == words
    assert sorted(texts(shown, ".card .text")) == sorted(row["texts"])
    lefts = shown.execute_script("return [...document.querySelectorAll('.card')].map((c) => c.offsetLeft)")
    assert len(set(lefts)) == 4


def test_what_a_policy_wrote_stays_text(shown):
    shown.execute_script("document.querySelector('.row').click()")  # the hostile group is the newest
    until(shown, f"document.querySelectorAll('.card').length === {len(HOSTILE)}")
    found = texts(shown, ".card .text")
    assert {HOSTILE[0], HOSTILE[1], HOSTILE[2], HOSTILE[4], HOSTILE[5]} < set(found)
    assert "right ⟨U+202E⟩to left⟨U+202C⟩ ␀ NUL ␇ bell" in found
    assert texts(shown, ".asked pre") == [HOSTILE[2], HOSTILE[1]]
    assert shown.title == "2 runs · tpo_dist"
    assert shown.execute_script("return document.getElementById('injected')") is None
    assert (
        shown.execute_script("return document.images.length + document.querySelectorAll('.group script').length") == 0
    )
    assert faults(shown) == []


def test_a_telephone_s_width_is_enough(driver, page):
    phone = opened(driver, page.as_uri(), width=360)
    phone.execute_script("document.querySelector('.row').click(); document.getElementById('all-keys').open = true")
    until(phone, f"document.querySelectorAll('.card').length === {len(HOSTILE)}")
    assert phone.execute_script("return [document.documentElement.scrollWidth, innerWidth]") == [360, 360]
    wide = """
        const inside = (each) => each.closest('.scroll, nav, pre, .chart');
        return [...document.querySelectorAll('main *')].filter((each) => !inside(each) &&
          each.getBoundingClientRect().right > 361).map((each) => each.outerHTML.slice(0, 100))"""
    assert phone.execute_script(wide) == []


def test_the_live_page_takes_in_what_a_run_writes(driver, tmp_path):
    make_folder(tmp_path / "run", 40, candidates=4)
    site = Served([tmp_path / "run"])
    try:
        opened(driver, site.address)
        assert count(driver) == "40 groups, page 1 of 2"
        group = json.loads((tmp_path / "run" / GROUPS).read_text().splitlines()[-1])
        with (tmp_path / "run" / GROUPS).open("a") as file:
            file.write(json.dumps({**group, "step": 11, "prompt": "<b>freshly</b> written"}) + "\n")
        with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": 11, "error": 0.125, "step_seconds": 1.0}) + "\n")
        until(driver, "document.getElementById('count').textContent.startsWith('41 groups')")
        assert texts(driver, ".row .snippet")[0] == "<b>freshly</b> written"
        until(driver, "Bokeh.documents[0].get_model_by_name('run0').data.error.at(-1) === 0.125")
        set_filter(driver, "f-text", "FRESHLY")
        until(driver, "document.getElementById('count').textContent.startsWith('1 of 41')")
        driver.execute_script("document.querySelector('.row').click()")
        until(driver, "document.querySelectorAll('.card').length > 0")
        assert texts(driver, ".asked pre")[0] == "<b>freshly</b> written"
        assert faults(driver) == []
    finally:
        driver.get("about:blank")
        site.close()
