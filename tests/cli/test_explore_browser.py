"""The explorer in a browser: what is seen and moved is what torch computes."""

import http.server
import json
import threading
import time
from pathlib import Path

import pytest
import torch

import pyrovae as pv
from pyrovae.cli.explore import Contents, World
from pyrovae.cli.explore.world import ONE_THREAD

pytest.importorskip("uvicorn", reason="the explorer needs uvicorn: pyrovae[explore]")
playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright to drive a browser")

import browsers  # noqa: E402
from browsers import pixels  # noqa: E402
from explored import served  # noqa: E402

CHROMIUM = Path("/usr/bin/chromium")

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM}")

SERVED = []
"""The application that the tests of a page share, while it is served."""

WORDS = "<script>window.ran = true</script>"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def vae():
    with pv.seeded(0):
        vae = pv.mlp_vae(64, latents=3, hidden=16)
        pv.fit(vae, pv.data.load("digits").train.take(slice(300)), epochs=2, callbacks=())
    return vae


@pytest.fixture(scope="module")
def application(vae):
    data = pv.data.load("digits").test.take(slice(40))
    words = [WORDS if label == data.labels[0] else str(label) for label in data.labels.tolist()]
    contents = Contents((1, 8, 8))
    world = World(vae, data, contents=contents, title="digits", colors={"word": words})
    with served(world) as application:
        SERVED.append(application)
        yield application
        SERVED.clear()


@pytest.fixture
def page(browser, application):
    """Return the page after its first view, which asked nobody but its server."""
    with opened(browser, application.url) as page:
        measured(page)
        yield page


class opened:  # noqa: N801
    """Open a page of the explorer, and hold at the end that it had no error of its own."""

    def __init__(self, browser, url, **options):
        options = {"viewport": {"width": 1280, "height": 900}} | options
        self.context = browser.new_context(**options)
        self.url, self.asked, self.errors = url, [], []

    def __enter__(self):
        self.context.set_default_timeout(60_000)
        page = self.context.new_page()
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(self.url)
        page.wait_for_selector("#datum figure, #datum table, #trouble:not([hidden])")
        return page

    def __exit__(self, kind, *_):
        self.context.close()
        rested = 0
        while SERVED and rested < 6:  # what the page had asked is still answered
            time.sleep(0.05)
            rested = 0 if SERVED[-1].one_at_a_time.locked() else rested + 1
        if kind is None:
            assert self.errors == []
            assert [url for url in self.asked if not url.startswith((self.url, "data:"))] == []


def until(page, expression):
    """Wait until an expression is true and the server rests: Pyro is not for two threads."""
    browsers.until(page, expression)
    rested = 0
    while SERVED and rested < 4:
        page.wait_for_timeout(50)
        rested = 0 if SERVED[-1].one_at_a_time.locked() else rested + 1


def measured(page):
    """Wait until the bounds are there: the server's thread then leaves Pyro to this one."""
    until(page, "[...$('color').options].some((o) => o.value === 'k-hat')")


def levels(x):
    return (255 * x).round().flatten().tolist()


def decoded(page):
    """Return the point that is shown decoded, once it is the one that the sliders say."""
    until(page, "$('decoded').dataset.z === JSON.stringify(explorer.z)")
    return json.loads(page.evaluate("$('decoded').dataset.z"))


def on_screen(page, i):
    """Return where a datum lies in the window."""
    return page.evaluate(
        "i => { const m = explorer.map, [x, y] = m.toScreen(...explorer.shown.xy[i]);"
        "const b = m.canvas.getBoundingClientRect(), r = m.canvas.width / b.width;"
        "return [b.left + x / r, b.top + y / r] }",
        i,
    )


def alone(page):
    """Return a datum of which no other is near on the map."""
    return page.evaluate(
        "() => { const at = explorer.shown.xy.map(p => explorer.map.toScreen(...p));"
        "const far = at.map((p, i) => Math.min(...at.map((q, j) => i === j ? 1e9 :"
        "Math.hypot(p[0] - q[0], p[1] - q[1])))); return far.indexOf(Math.max(...far)) }"
    )


class TestSeen:
    def test_hovering_and_choosing_a_datum_show_it(self, page, application):
        i = alone(page)
        page.mouse.move(*on_screen(page, i))
        page.wait_for_selector(f"#datum figcaption:text-is('datum {i}')")
        assert pixels(page, "#datum canvas >> nth=0") == levels(application.world.given.x[i])
        assert page.input_value("#index") == "0"
        page.mouse.click(*on_screen(page, i))
        until(page, f"$('index').value === '{i}'")
        found = torch.tensor(application.world.datum(i)["reconstruction"])
        page.wait_for_selector("#facts dt:text-is('ELBO')")
        assert pixels(page, "#datum canvas >> nth=1") == levels(found)
        assert f"{application.world.datum(i)['bound']['elbo']:.3f} nats" in page.inner_text(
            "#facts"
        )

    def test_a_slider_decodes_what_torch_decodes(self, page, vae):
        before = decoded(page)
        first = page.locator("#sliders input").first
        first.focus()
        for _ in range(30):
            page.keyboard.press("ArrowRight")
        z = decoded(page)
        assert sum(a != b for a, b in zip(z, before, strict=True)) == 1
        found = pixels(page, "#decoded canvas")
        with ONE_THREAD:
            wanted = vae.decode(torch.tensor([z])).mean.detach()
        assert found == pytest.approx(levels(wanted), abs=1)
        assert found != pixels(page, "#datum canvas >> nth=1")

    def test_two_data_are_interpolated(self, page, vae, application):
        for i, button in ((4, "#from"), (9, "#to")):
            page.fill("#index", str(i))
            page.press("#index", "Enter")
            until(page, f"explorer.datum === {i}")
            page.click(button)
        until(page, "document.querySelectorAll('#between canvas').length === 9")
        x = application.world.given.x
        with ONE_THREAD:
            wanted = pv.interpolate(vae, x[[4, 9]], steps=9).means
        for step in (0, 4, 8):
            found = pixels(page, f"#between canvas >> nth={step}")
            assert found == pytest.approx(levels(wanted[step]), abs=1)
        names, lines = {}, page.inner_text("#python")
        with ONE_THREAD:
            exec(lines, {"vae": vae, "x": x}, names)
        assert torch.equal(names["means"], wanted)

    def test_a_point_that_is_picked_is_decoded_and_weighed(self, page, application):
        page.keyboard.down("Shift")
        box = page.locator("#map").bounding_box()
        page.mouse.click(box["x"] + 5, box["y"] + 5)
        page.keyboard.up("Shift")
        z = decoded(page)
        x, y = page.evaluate("explorer.map.toPlane(5, 5)")
        assert page.evaluate("explorer.shown.of(explorer.z)") == pytest.approx([x, y], abs=0.05)
        wanted = application.world.density(z)
        until(page, f"$('density').textContent.includes('{wanted['prior']:.2f} nats')")
        assert f"log q(z) {wanted['aggregate']:.2f} nats" in page.inner_text("#density")
        assert (wanted["hole"] or "") in page.inner_text("#density")

    def test_the_map_is_colored_by_bounds_once_they_are_there(self, page, application):
        until(page, "[...$('color').options].some((o) => o.value === 'k-hat')")
        least = application.world.world()["lists"]["least known"]
        rows = page.locator("#lists ul").first.locator("button").all_inner_texts()
        assert [row.strip() for row in rows] == [str(i) for i in least]
        page.wait_for_selector("#lists button >> nth=0 >> canvas")
        shown = pixels(page, "#lists button canvas >> nth=0")
        assert shown == levels(application.world.given.x[least[0]])
        page.select_option("#color", "log p(x), IWAE-100")
        assert page.locator("#legend .ramp").count() == 1
        page.locator("#lists button").first.click()
        until(page, f"$('index').value === '{least[0]}'")

    def test_tsne_has_no_points(self, page):
        page.select_option("#plane", "t-SNE")
        page.wait_for_selector("#legend >> text=no way back to the latents", timeout=60_000)
        page.focus("#map")
        page.keyboard.press("Enter")
        assert "choose PCA or two latents" in page.inner_text("#trouble")

    def test_a_label_is_text(self, page):
        page.select_option("#color", "word")
        assert WORDS in page.inner_text("#legend")
        i = page.evaluate(f"explorer.world.colors.word.names.indexOf({json.dumps(WORDS)})")
        row = page.evaluate(f"explorer.world.colors.word.values.indexOf({i})")
        page.evaluate(f"explorer.select({row})")
        page.wait_for_selector(f"#facts >> text={WORDS}")
        assert page.evaluate("window.ran") is None


class TestHands:
    def test_by_keyboard_alone(self, page):
        for _ in range(20):
            if page.evaluate("document.activeElement.id") == "map":
                break
            page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "map"
        view = page.evaluate("({...explorer.map.view})")
        for key in ("n", "a", "n", "n", "b", "ArrowLeft", "+"):
            page.keyboard.press(key)
        until(page, "document.querySelectorAll('#between canvas').length === 9")
        assert page.evaluate("[explorer.datum, ...explorer.ends]") == [3, 1, 3]
        moved = page.evaluate("({...explorer.map.view})")
        assert moved["x"] < view["x"]
        assert moved["scale"] == pytest.approx(1.25 * view["scale"])
        page.keyboard.press("0")
        assert page.evaluate("explorer.map.view.scale") == pytest.approx(view["scale"])

    def test_every_control_has_a_name(self, page):
        nameless = page.evaluate(
            "[...document.querySelectorAll('input, select, button, canvas, [tabindex]')].filter("
            "(e) => !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length))"
            ".map((e) => e.outerHTML)"
        )
        assert nameless == []

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_on_a_narrow_screen(self, browser, application, scheme):
        narrow = {"viewport": {"width": 390, "height": 844}, "color_scheme": scheme}
        with opened(browser, application.url, **narrow) as page:
            assert page.evaluate("document.documentElement.scrollWidth") == 390
            paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(24, 24, 24)"}[scheme]
            corner = "c => c.getContext('2d').getImageData(0, 0, 1, 1).data[0]"
            assert page.eval_on_selector("#map", corner) == {"light": 255, "dark": 24}[scheme]


class TestTrouble:
    def test_another_site_cannot_call_it(self, browser, application):
        class Other(http.server.BaseHTTPRequestHandler):
            def do_GET(self):  # noqa: N802
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        calls = """async (url) => {
            const tries = [
                { method: "POST", headers: { "Content-Type": "application/json" }, body: "[]" },
                { method: "POST", headers: { "Content-Type": "text/plain" }, body: "[]" },
                { method: "GET" },
            ];
            const found = [];
            for (const each of tries) {
                for (const name of ["world", ""]) {
                    try { found.push((await (await fetch(url + name, each)).text()).length); }
                    catch (error) { found.push(error.name); }
                }
            }
            return found;
        }"""
        before = dict(application.world.measured)
        with http.server.HTTPServer(("127.0.0.1", 0), Other) as other:
            thread = threading.Thread(target=other.serve_forever, daemon=True)
            thread.start()
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{other.server_port}/")
            assert page.evaluate(calls, application.url) == ["TypeError"] * 6
            page.set_content(f'<iframe src="{application.url}"></iframe>')
            page.wait_for_timeout(200)
            assert page.frames[1].url != application.url or not page.frames[1].query_selector("h1")
            page.close()
            other.shutdown()
        assert application.world.measured == before

    def test_a_decoder_that_fails_is_one_line(self, page, application, monkeypatch):
        def broken(*_):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

        monkeypatch.setattr(application.world, "decode", broken)
        page.locator("#sliders input").first.press("ArrowRight")
        page.wait_for_selector("#trouble >> text=RuntimeError: mat1 and mat2")
        monkeypatch.undo()
        page.locator("#sliders input").first.press("ArrowRight")
        page.wait_for_selector("#trouble", state="hidden")

    def test_a_server_that_ended_is_one_line(self, browser, vae):
        world = World(
            vae, pv.data.load("digits").test.take(slice(5)), contents=Contents((1, 8, 8))
        )
        with served(world) as application:
            view = opened(browser, application.url)
            page = view.__enter__()
            until(page, "explorer.lists['least known']")
        page.locator("#sliders input").first.press("ArrowRight")
        page.wait_for_selector("#trouble >> text=The server does not answer")
        view.__exit__(None)


def rows():
    frame = {
        "height": [1.6, 1.8, None, 1.7],
        "children": [0, 2, 1, 3],
        "city": ["Bern", "Rome"] * 2,
    }
    pandas, _ = pytest.importorskip("pandas"), pytest.importorskip("narwhals")
    table = pv.data.Table.of(pandas.DataFrame(frame))
    x, mask = table.encode(pandas.DataFrame(frame))
    return World(pv.table_vae(table, 2, hidden=8), (x, mask), contents=Contents((3,), table=table))


def counts():
    vae = pv.mlp_vae(5, 2, hidden=8, likelihood=pv.likelihoods.Poisson)
    columns = ("g1", "g2", "g3", "g4", "g5")
    contents = Contents((5,), torch.distributions.constraints.nonnegative_integer, columns=columns)
    return World(vae, torch.arange(20.0).reshape(4, 5), contents=contents)


def vectors():
    vae = pv.mlp_vae(12, 2, hidden=8, likelihood=pv.likelihoods.Normal)
    return World(vae, torch.linspace(-1, 1, 48).reshape(4, 12))


def colored():
    vae = pv.mlp_vae(48, 2, hidden=8)
    return World(vae, torch.rand(4, 48).round(), contents=Contents((3, 4, 4)))


@pytest.mark.parametrize(
    ("make", "selector", "said"),
    [
        (rows, "#datum table", ["height", "missing", "city", "Bern"]),
        (counts, "#datum table", ["g5", "reconstruction"]),
        (vectors, "#datum canvas.chart", ["gray", "blue"]),
        (colored, "#datum canvas.image", ["reconstruction"]),
    ],
    ids=["table", "counts", "vector", "rgb"],
)
def test_each_kind_of_data_is_shown_in_its_own_way(browser, make, selector, said):
    with pv.seeded(0):
        world = make()
    with served(world) as application, opened(browser, application.url) as page:
        page.evaluate("explorer.select(2)")
        until(page, "document.querySelector('#datum').innerText.includes('datum 2')")
        assert page.locator(selector).count()
        for words in said:
            assert words in page.inner_text("#datum")
        if make is colored:
            x = world.given.x[2].reshape(3, 16)
            shown = page.eval_on_selector(
                selector,
                "c => [...c.getContext('2d').getImageData(0, 0, 4, 4).data]",
            )
            assert torch.tensor(shown).reshape(16, 4)[:, :3].T.tolist() == (255 * x).tolist()
        page.evaluate("explorer.end(0); explorer.select(0); explorer.end(1)")
        page.wait_for_selector("#between canvas, #between table")
