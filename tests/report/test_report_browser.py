"""The report in a real browser: nothing is fetched, nothing fails, and whatever can be clicked does what it says."""

import re
import shutil
from collections.abc import Iterator

import numpy as np
import pytest

from reported import entries
from reported import page as written

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright to drive a browser")
FOUND = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
pytestmark = [
    pytest.mark.skipif(not FOUND, reason="no Chromium to open the report in"),
    pytest.mark.xdist_group("report"),
]
FLAGS = ["no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"]
FLAGS += ["disable-component-update", "disable-sync", "host-resolver-rules=MAP * ~NOTFOUND"]
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 800}

WORDS = "p, th, td, li, dt, dd, a, h1, h2, h3, summary, button, select, .small, .interval, .mark, .value, .advice, pre"
CONTRAST = """what => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const levels = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = colour => levels(colour).slice(0, 3).map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  return Math.min(...[...document.querySelectorAll(what)].filter(e => e.checkVisibility()).map(e => {
    let behind = e;
    const clear = node => levels(getComputedStyle(node).backgroundColor)[3] < 255;
    while (behind.parentElement && clear(behind)) behind = behind.parentElement;
    const [a, b] = [light(getComputedStyle(e).color), light(getComputedStyle(behind).backgroundColor)];
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  }));
}"""


class Opened:
    """The page, with what its browser complained of and asked for."""

    def __init__(self, browser: "playwright.Browser", address: str, **how: object) -> None:
        self.page = browser.new_page(viewport=WIDE, reduced_motion="reduce", **how)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(written(), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def browser() -> "Iterator[playwright.Browser]":
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=FOUND[0], args=[f"--{flag}" for flag in FLAGS])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def opened(browser, address) -> Opened:
    return Opened(browser, address)


@pytest.fixture
def page(opened) -> "Iterator[playwright.Page]":
    opened.page.set_viewport_size(WIDE)
    yield opened.page
    assert opened.errors == []
    assert [url for url in opened.requests if not url.startswith(("file:", "data:"))] == []


def test_the_page_opens_without_an_error_or_a_request(page, opened, address):
    assert page.title() == "How robust are Plain <b> and PGD training?"
    assert [url for url in opened.requests if url.startswith("file:")] == [address]
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth && image.alt)")


def test_the_test_would_notice_an_error_and_a_request(browser, tmp_path):
    """Both are put into a copy and do show, so that their absence says something."""
    broken = written().replace("default-src 'none'; img-src data:", "default-src *; img-src *")
    broken = re.sub(r"script-src '[^']*'", "script-src 'unsafe-inline'", broken).split("<main")[0]
    broken += "<script>console.error('oh')</script><img src='http://127.0.0.1:9/x.png' alt='x'>"
    (tmp_path / "broken.html").write_text(broken, encoding="utf-8")
    found = Opened(browser, (tmp_path / "broken.html").as_uri())
    assert "oh" in found.errors
    assert "http://127.0.0.1:9/x.png" in found.requests
    found.page.close()


def test_every_section_is_one_click_away_and_marked(page):
    links = page.locator("nav a")
    assert links.count() == page.locator("main > section").count() == 11
    for place in range(links.count()):
        links.nth(place).click()
        goal = links.nth(place).get_attribute("href")
        page.wait_for_function(
            "goal => { const top = document.querySelector(goal).getBoundingClientRect().top;"
            " const end = scrollY + innerHeight >= document.documentElement.scrollHeight - 2;"
            " return document.querySelector('nav [aria-current]').hash === goal && (end || Math.abs(top) < 80)"
            " || (end && top < innerHeight); }",
            arg=goal,
        )


def columns(page, table: int, column: int) -> list[float | None]:
    """The values by which a column is sorted, group by group, as the page shows the rows now."""
    return page.evaluate(
        """([table, column]) => [...document.querySelectorAll("table[data-sortable]")[table].rows]
        .filter(row => row.parentElement.tagName === "TBODY" && row.className !== "group")
        .map(row => [[...row.parentElement.parentElement.tBodies].indexOf(row.parentElement), row.cells[column]])
        .map(([body, cell]) => [body, cell.dataset.sort ?? cell.textContent])""",
        [table, column],
    )


def test_every_column_sorts_down_up_and_back(page):
    tables = page.locator("table[data-sortable]")
    assert tables.count() == 3
    for table in range(tables.count()):
        heads = tables.nth(table).locator("thead th")
        for column in range(heads.count()):
            before = columns(page, table, column)
            number = "number" in (heads.nth(column).get_attribute("class") or "")
            for way in ["descending", "ascending"] if number else ["ascending", "descending"]:
                heads.nth(column).locator("button").click()
                assert heads.nth(column).get_attribute("aria-sort") == way
                assert tables.nth(table).locator("[aria-sort]").count() == 1
                found = columns(page, table, column)
                assert sorted(found) == sorted(before)
                assert [body for body, _ in found] == [body for body, _ in before], "groups stay apart"
                for body in {body for body, _ in found}:
                    values = [float(value) for at, value in found if at == body and value] if number else []
                    assert values == sorted(values, reverse=way == "descending")
            heads.nth(column).locator("button").press("Enter")
            assert tables.nth(table).locator("[aria-sort]").count() == 0
            assert columns(page, table, column) == before


def test_the_gallery_is_chosen_from_and_ordered(page):
    cards = page.locator(".cards li:visible")
    everything = cards.count()
    assert everything == sum(len(entry.gallery.index) for entry in entries())
    page.select_option("select[name=model]", "Plain <b>")
    assert cards.count() == len(entries()[0].gallery.index)
    labels = entries()[0].gallery.label.tolist()
    page.select_option("select[name=label]", str(labels[0]))
    assert cards.count() == labels.count(labels[0])
    assert page.locator("form output").inner_text() == f"{cards.count()} of {everything}"
    page.select_option("select[name=model]", "")
    page.select_option("select[name=label]", "")
    for order, key, sign in (("-size", "size", -1), ("label", "number", 1), ("image", "image", 1), ("size", "size", 1)):
        page.select_option("select[name=order]", order)
        found = [sign * float(value) for value in cards.evaluate_all(f"all => all.map(card => card.dataset.{key})")]
        assert found == sorted(found)


def standing(entry, radius: float) -> float:
    """The share of the images whose smallest L2 perturbation is longer."""
    rows = entry.evaluation.table.to_pylist()
    near = {row["image"]: np.inf for row in rows}
    for row in rows:
        if row["clean_prediction"] != row["label"]:
            near[row["image"]] = 0.0
        elif entry.evaluation.record(row["attack"]).norm == "L2" and row["prediction"] != row["label"]:
            near[row["image"]] = min(near[row["image"]], row["l2"])
    return float(np.mean(np.array(list(near.values())) > radius))


def read(plot) -> tuple[float, dict[str, float]]:
    """The radius and each line's accuracy, as the tip says them."""
    head = plot.locator(".tip p").inner_text()
    rows = plot.locator(".tip tr").evaluate_all("rows => rows.map(row => [...row.cells].map(cell => cell.textContent))")
    return float(head.split()[-1]), {name: float(value.removesuffix(" %")) / 100 for name, value in rows}


def test_curves_are_read_off_by_mouse_touch_and_keyboard(page, browser, address):
    plot = page.locator(".picture", has_text="Accuracy versus L2 radius").locator(".plot")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    seen = set()
    for share in (0.3, 0.5, 0.7):
        page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
        radius, found = read(plot)
        seen.add(radius)
        assert set(found) == {entry.name for entry in entries()}
        for entry in entries():
            # The tip has three digits of the radius, so that the image at the step may stand on either side.
            near = [standing(entry, radius * (1 + shift)) for shift in (-0.006, 0, 0.006)]
            assert min(near) - 0.001 <= found[entry.name] <= max(near) + 0.001
    assert len(seen) == 3
    page.mouse.move(5, 5)
    assert plot.locator(".tip").is_hidden()

    plot.focus()
    plot.press("Home")
    assert read(plot) == (0.0, {e.name: pytest.approx(standing(e, 0.0), abs=0.001) for e in entries()})
    plot.press("ArrowRight")
    assert read(plot)[0] > 0
    plot.press("End")
    last = read(plot)[0]
    plot.press("ArrowLeft")
    assert read(plot)[0] < last
    plot.press("Escape")
    assert plot.locator(".tip").is_hidden()

    linf = page.locator(".picture", has_text="Accuracy versus Linf radius").locator(".plot")
    linf.scroll_into_view_if_needed()
    mark = linf.evaluate("""plot => {
      const mark = JSON.parse(plot.querySelector("script").textContent).marks.at(-1);
      const frame = plot.querySelector("svg").getBoundingClientRect();
      const scale = frame.width / plot.querySelector("svg").viewBox.baseVal.width;
      return [frame.left + mark.px * scale, frame.top + mark.py * scale, mark.of + ": " + mark.name, mark.y];
    }""")
    page.mouse.move(mark[0], mark[1])
    assert read(linf)[1][mark[2]] == pytest.approx(mark[3], abs=0.001)
    assert mark[2] in linf.locator(".tip .near").inner_text()

    phone = Opened(browser, address, has_touch=True)
    touched = phone.page.locator(".picture", has_text="Accuracy versus L2 radius").locator(".plot")
    touched.tap()
    assert set(read(touched)[1]) == {entry.name for entry in entries()}
    assert phone.errors == []
    phone.page.close()


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_only_boxes_scroll_sideways(page, size):
    page.set_viewport_size(size)
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    inside, body = page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]")
    assert max(inside, body) <= size["width"]
    sizes = page.evaluate(
        "[...document.querySelectorAll('p, td, li')].map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(sizes) >= 12
    page.evaluate("document.querySelectorAll('details:not(.again)').forEach(each => { each.open = false; })")


def test_two_models_fit_beside_one_another_on_a_phone(page):
    """No column is cut off at the edge; the table of attacks scrolls in its box, with a shadow there."""
    page.set_viewport_size({"width": 390, "height": 844})
    boxes = page.evaluate("""[...document.querySelectorAll("section .scroll:has(> .full)")]
      .filter(e => e.checkVisibility()).map(e => [e.firstElementChild.className, e.scrollWidth - e.clientWidth])""")
    assert {name for name, _ in boxes} >= {"full glance", "full", "full falls", "full signs", "full attacks"}
    assert [name for name, beyond in boxes if beyond > 0 and name != "full attacks"] == []
    assert max(beyond for name, beyond in boxes if name == "full attacks") > 0
    assert page.evaluate("getComputedStyle(document.querySelector('.scroll')).backgroundImage").count("gradient") == 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out(page, scheme):
    page.emulate_media(color_scheme=scheme)
    assert page.evaluate(CONTRAST, WORDS) >= 4.5
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator(".scheme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    assert page.evaluate(CONTRAST, WORDS) >= 4.5
    page.locator(".scheme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark
    page.emulate_media(color_scheme="light")


def test_the_keyboard_reaches_everything_and_shows_where_it_is(page):
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.locator(".skip").focus()
    reached = []
    for _ in range(200):
        page.keyboard.press("Tab")
        here = page.evaluate("""() => { const e = document.activeElement;
          return [e.tagName + "." + e.className, getComputedStyle(e).outlineStyle !== "none"]; }""")
        if here[0].startswith("BODY"):
            break
        reached.append(here)
    names = [name for name, _ in reached]
    assert all(shown for _, shown in reached), [name for name, shown in reached if not shown]
    assert sum(name.startswith("A.") for name in names) == 11
    for name in ("BUTTON.scheme", "DIV.plot", "DIV.scroll", "SELECT.", "SUMMARY.", "BUTTON."):
        assert name in names, name


def test_recipes_are_copied(browser, address):
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(address)
    page.locator("details.again summary").nth(1).click()
    box = page.locator("details.again").nth(1).locator(".copied")
    box.locator("button").click()
    page.wait_for_function("box => box.textContent === 'Copied'", arg=box.locator("button").element_handle())
    assert page.evaluate("navigator.clipboard.readText()") == entries()[1].recipe
    context.close()


def test_without_its_script_the_page_is_whole(browser, address):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert page.locator(".scripted:visible").count() == 0
    assert page.locator("main > section:visible").count() == 11
    assert page.locator("svg:visible").count() > 4
    assert page.locator(".cards li:visible").count() == sum(len(entry.gallery.index) for entry in entries())
    page.locator(".numbers summary").nth(0).click()
    assert page.locator(".numbers td:visible").count() > 1
    page.emulate_media(media="print")
    assert page.locator("nav:visible").count() == 0
    context.close()
