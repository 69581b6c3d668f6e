"""The page of ``causalvae explore`` in a browser: a slider is moved and the picture follows."""

import json
import shutil
import threading
import time
from pathlib import Path

import pytest
from PIL import Image, features

from causalvae_pyro import fit
from causalvae_pyro.checkpoints.runs import Run
from causalvae_pyro.explore import Explorer
from causalvae_pyro.explore.server import Server
from causalvae_pyro.explore.session import Session, encode_png
from causalvae_pyro.recipes import Recipe
from tests.builders import Small
from tests.explore.test_explore import make_run

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium, of the extra test")
Keys = webdriver.Keys

SET = """
const slider = document.getElementById(arguments[0]);
slider.value = arguments[1];
slider.dispatchEvent(new Event("input", { bubbles: true }));
"""
DROP = """
const file = new File([Uint8Array.from(arguments[0])], arguments[1], { type: "image/png" });
const carried = new DataTransfer();
carried.items.add(file);
document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true }));
"""


@pytest.fixture(scope="module")
def data():
    return Small("test", size=16)


@pytest.fixture(scope="module")
def explorer(data):
    # Trained until its pictures follow the concepts, however badly.
    run, train = make_run(data, "pendulum"), Small("train", size=16)
    run.model.train()
    run.guide.train()
    objective = Recipe(decoder="conv", prior_std=0.05).objective(run)
    fit(run.model, run.guide, train, objective=objective, epochs=2, batch_size=16, lr=3e-3, progress=False, device="cpu")
    return Explorer(Run(run.model.eval(), run.guide.eval(), run.config), data)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    driver = shutil.which("chromedriver")
    if driver is None or not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))):
        pytest.skip("needs Chromium and its chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1360,1000"):
        options.add_argument(argument)
    downloads = tmp_path_factory.mktemp("downloads")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as browser:
        browser.downloads = downloads
        yield browser


@pytest.fixture
def page(browser, explorer):
    with Server(Session(explorer, "runs/tiny"), 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        browser.get(server.address)
        yield Page(browser)
        server.shutdown()
        thread.join()
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE" and "400" not in entry["message"]]


class Page:
    def __init__(self, browser):
        self.browser = browser
        self.wait()

    def wait(self):
        until(lambda: "counterfactual(" in self.text("code"))

    def find(self, css):
        return self.browser.find_element("css selector", css)

    def text(self, name):
        return self.find(f"#{name}").text

    def panel(self, title):
        return self.browser.execute_script("return document.querySelector(`#panels img[alt='${arguments[0]}']`)?.src", title)

    def drag(self, name, value):
        self.browser.execute_script(SET, f"slider-{name}", value)
        until(lambda: f'"{name}": {value}' in self.text("code"))

    def classes(self, css):
        return [element.get_attribute("class") for element in self.browser.find_elements("css selector", css)]


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the page did not get there"
        time.sleep(0.02)


def test_a_slider_moves_the_picture(page, explorer, tmp_path):
    (index,) = (
        int(button.get_attribute("value")) for button in page.browser.find_elements("css selector", "[aria-pressed=true]")
    )
    before = {title: page.panel(title) for title in ("image", "reconstruction", "counterfactual", "true counterfactual")}
    # With the image's own detail it is the image itself where nothing is set.
    assert before["counterfactual"] == before["image"] != before["reconstruction"]
    page.drag("light", 9.5)
    after = {title: page.panel(title) for title in before}
    for title in before:
        assert (after[title] != before[title]) == ("counterfactual" in title), title
    # The table and the graph: light is set, its effects moved.
    assert page.classes("#table tr")[1:] == ["", "set", "moved", "moved"]
    assert page.classes("#graph g") == ["", "set", "moved", "moved"]
    assert page.classes(".concept") == ["concept", "concept set", "concept moved", "concept moved"]
    expected = explorer.answer(explorer.test_image(index), {"light": 9.5})
    for concept, row in zip(explorer.concepts, page.browser.find_elements("css selector", "#table tr")[1:], strict=True):
        cells = [cell.text for cell in row.find_elements("css selector", "td")]
        assert cells[0] == f"{concept.name.replace('_', ' ')} ({concept.unit})"
        assert float(cells[3]) == pytest.approx(expected.concepts[concept.name], abs=concept.step)
        assert float(cells[4]) == pytest.approx(expected.true_concepts[concept.name], abs=concept.step)
    page.browser.save_screenshot(str(tmp_path / "page.png"))
    with Image.open(tmp_path / "page.png") as shot:
        assert len(shot.convert("RGB").getcolors(2**20)) > 50


def test_interventions_are_released(page):
    image = page.panel("image")
    page.drag("light", 9.5)
    page.drag("shadow_length", 9.0)
    assert page.classes(".concept") == ["concept", "concept set", "concept set", "concept moved"]
    assert len(page.browser.find_elements("css selector", "#graph path.cut")) == 2
    page.find(".concept:nth-child(2) .release").click()
    until(lambda: page.classes(".concept") == ["concept", "concept", "concept set", "concept"])
    assert '{"shadow_length": 9.0}' in page.text("code")
    page.find("#release-all").click()
    until(lambda: ", {}, " in page.text("code"))
    assert page.panel("counterfactual") == image
    # Ticked, a concept is set to where it is.
    page.find(".concept:nth-child(1) input[type=checkbox]").click()
    until(lambda: '{"pendulum": ' in page.text("code"))


def test_values_are_typed_and_ranges_left(page):
    number = page.find(".concept:nth-child(2) input[type=number]")
    number.send_keys(Keys.CONTROL, "a", Keys.NULL, "5.25", Keys.ENTER)
    until(lambda: '{"light": 5.25}' in page.text("code"))
    slider = page.find("#slider-light")
    low = float(slider.get_attribute("min"))
    page.find("#beyond").click()
    assert float(slider.get_attribute("min")) < low


def test_standard_deviation_on_request(page):
    assert page.panel("standard deviation") is None
    page.find("#uncertainty").click()
    until(lambda: page.panel("standard deviation"))
    assert "±" in page.text("table")
    assert "num_samples=16" in page.text("code")
    page.find("#uncertainty").click()
    until(lambda: page.panel("standard deviation") is None)


def test_detail_unless_it_is_not_wanted(page):
    reconstruction = page.panel("reconstruction")
    page.find("#detail").click()
    until(lambda: page.panel("counterfactual") == reconstruction)
    page.drag("light", 9.5)
    plain = page.panel("counterfactual")
    assert "pixel_noise" not in page.text("code")
    page.find("#detail").click()
    until(lambda: page.panel("counterfactual") != plain)
    assert "pixel_noise=1.0, fade=0.03" in page.text("code")


def test_the_picture_does_not_wait_for_the_samples(page, explorer, monkeypatch):
    page.find("#uncertainty").click()
    until(lambda: page.panel("standard deviation"))
    spread, drawn = page.panel("standard deviation"), page.panel("counterfactual")
    slow, samples = threading.Event(), explorer._samples
    monkeypatch.setattr(explorer, "_samples", lambda *args: (slow.wait(20.0), samples(*args))[1])
    page.drag("light", 9.5)
    until(lambda: page.panel("counterfactual") != drawn)
    # What the samples said about the last picture is there still, and can be seen to be old.
    assert page.panel("standard deviation") == spread
    assert page.classes("#panels figure")[-1] == "stale"
    assert "num_samples" not in page.text("code")
    slow.set()
    until(lambda: page.panel("standard deviation") != spread)
    assert page.classes("#panels figure")[-1] == ""
    assert "num_samples=16" in page.text("code")


def test_another_image_and_one_of_ones_own(page, data):
    first = page.panel("image")
    page.find("#thumbnails button:nth-child(2)").click()
    until(lambda: page.panel("image") != first)
    number = page.find("#index")
    number.send_keys(Keys.CONTROL, "a", Keys.NULL, "9", Keys.ENTER)
    until(lambda: "data.images[[9]]" in page.text("code"))
    ninth = page.panel("image")
    page.browser.execute_script(DROP, list(encode_png(data.images[9] / 255)), "mine.png")
    until(lambda: "read_image('mine.png'" in page.text("code"))
    assert page.panel("image") == ninth
    assert page.panel("true counterfactual") is None
    page.browser.execute_script(DROP, [1, 2, 3], "words.txt")
    until(lambda: "no image that can be decoded" in page.text("error"))
    # The page goes on with the image before, and without the complaint.
    page.drag("light", 9.5)
    assert page.find("#error").text == ""


def test_download(page):
    page.drag("light", 9.5)
    page.find("#download").click()
    until(lambda: list(page.browser.downloads.glob("tiny_*_light_9.5.png")))
    (path,) = page.browser.downloads.glob("tiny_*_light_9.5.png")
    with Image.open(path) as picture:
        assert picture.width > 1000


def test_a_second_intervention_side_by_side(page, explorer):
    def kept():
        return page.browser.execute_script("return [...document.querySelectorAll('#kept-panels img')].map(i => [i.alt, i.src])")

    page.drag("light", 9.5)
    first = page.panel("counterfactual")
    page.find("#keep").click()
    page.drag("light", 10.5)
    until(lambda: len(kept()) == 2)
    assert page.text("kept-do") == f"do(light = 9.50 {explorer.concept('light').unit})"
    assert kept()[0] == ["kept: counterfactual", first]
    assert page.panel("counterfactual") != first
    # Another image: both are of it.
    page.find("#thumbnails button:nth-child(2)").click()
    until(lambda: kept()[0][1] != first)
    second = page.panel("counterfactual"), kept()[0][1]
    page.find("#swap").click()
    until(lambda: '{"light": 9.5}' in page.text("code"))
    until(lambda: (kept()[0][1], page.panel("counterfactual")) == second)
    page.find("#keep").click()
    assert not page.find("#kept").is_displayed()


def test_one_concept_through_its_range(page, explorer):
    page.find("#sweep summary").click()
    until(lambda: len(page.browser.find_elements("css selector", "#strip img")) == 18)
    page.browser.execute_script("document.getElementById('swept').value = 'light'; swept.dispatchEvent(new Event('change'))")
    until(lambda: page.text("strip").startswith("light"))
    low, *_, high = map(float, page.text("strip").split("\n")[0].split(")")[1].split())
    assert (low, high) == explorer.concept("light").ends()
    kinds = ["gif", "png", *(["webp"] if features.check("webp") else [])]
    for kind in kinds:
        page.find(f".save[value={kind}]").click()
        until(lambda kind=kind: list(page.browser.downloads.glob(f"tiny_*_light.{kind}")))
        (path,) = page.browser.downloads.glob(f"tiny_*_light.{kind}")
        with Image.open(path) as picture:
            # There and back, 46; a file keeps equal neighbours as one.
            assert getattr(picture, "n_frames", 1) in ([1] if kind == "png" else range(30, 47))
            assert picture.height == 256


def test_which_pixels_follow_which_concept(page, explorer):
    page.find("#effects summary").click()
    until(lambda: len(page.browser.find_elements("css selector", "#maps img")) == 4)
    alts = [image.get_attribute("alt") for image in page.browser.find_elements("css selector", "#maps img")]
    assert alts == [f"pixels that follow {name.replace('_', ' ')}" for name in explorer.graph.names]
    assert "standard deviation of" in page.text("maps-hint")


def test_without_a_mouse(page):
    """Everything can be reached by the tabulator, in the order of the page, and used with the keys of its kind."""
    places = []
    page.find("h1").click()
    for _ in range(80):
        webdriver.ActionChains(page.browser).send_keys(Keys.TAB).perform()
        element = page.browser.switch_to.active_element
        place = page.browser.execute_script(
            "const e = arguments[0], at = e.getBoundingClientRect(); return [e.id || e.textContent, at.x, at.y + scrollY]",
            element,
        )
        if element.tag_name == "body" or place in places:
            break
        places.append(place)
        # Where the focus is can be seen.
        if place[0] == "slider-light":
            assert element.value_of_css_property("outline-style") == "solid"
            before = page.text("code")
            element.send_keys(Keys.ARROW_RIGHT)
            until(lambda before=before: page.text("code") != before)
        if place[0] == "keep":
            element.send_keys(Keys.SPACE)
            until(lambda: page.find("#kept").is_displayed())
            element.send_keys(Keys.SPACE)
        if "through its range" in place[0]:
            element.send_keys(Keys.ENTER)
            until(lambda: page.browser.find_elements("css selector", "#strip img"))
    names = [place[0] for place in places]
    wanted = [
        "index",
        "random",
        "file",
        "slider-pendulum",
        "slider-shadow_position",
        "beyond",
        "detail",
        "uncertainty",
        "keep",
        "swept",
        "copy",
        "download",
    ]
    assert [name for name in names if name in wanted] == wanted


@pytest.mark.parametrize(("width", "mobile"), [(1360, False), (390, True)])
def test_accessible_to_all(width, mobile, page):
    """The rules of WCAG 2.1 AA that can be checked by a program, contrast among them, and no scrolling to the side."""
    axe = pytest.importorskip("axe_core_python", reason="needs axe-core-python, of the extra test")
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": mobile}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        page.drag("light", 9.5)
        page.find("#keep").click()
        page.find("#uncertainty").click()
        page.browser.execute_script("sweep.open = effects.open = true")
        until(lambda: page.browser.find_elements("css selector", "#maps img"))
        page.browser.execute_script((Path(axe.__file__).parent / "axe.min.js").read_text())
        rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
        found = page.browser.execute_async_script(
            "const done = arguments[1]; axe.run(document, {runOnly: arguments[0]}).then((found) => "
            "done([found.passes.length, found.violations.map((v) => [v.id, v.nodes.map((n) => n.html)])]))",
            rules,
        )
        passed, violations = found
        assert violations == []
        assert passed > 20
        assert page.browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_page_fetches_nothing_from_elsewhere(page):
    page.browser.get_log("performance")
    page.browser.refresh()
    page.wait()
    page.drag("light", 9.5)
    messages = (json.loads(entry["message"])["message"] for entry in page.browser.get_log("performance"))
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    asked = {url.split("/", 3)[2] if "://" in url else url.split(":")[0] for url in urls}
    host = page.browser.current_url.split("/")[2]
    assert host in asked
    assert asked <= {host, "data"}
