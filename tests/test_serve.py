"""``repshift serve``: the page over a table, in the test client and in a real browser."""

import io
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from fastapi.testclient import TestClient
from PIL import Image

from repshift import InputError
from repshift.evaluation.collection.finding import Finder
from repshift.evaluation.collection.indexing import bring_up_to_date
from repshift.evaluation.collection.local import Local
from repshift.evaluation.collection.models import Named, made_by, open_encoder
from repshift.evaluation.collection.places import find_files
from repshift.evaluation.collection.site import create_app
from repshift.evaluation.collection.table import make_table

CHROMIUM = Path("/usr/bin/chromium")
MARKUP = "<img src=x onerror=document.title='run'>.png"
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four photographs, one of whose names is markup."""
    folder = tmp_path_factory.mktemp("photos")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    for name, image in zip(["0.png", "1.png", "2.png", MARKUP], pixels, strict=True):
        Image.fromarray(image).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def finder(folder, tmp_path_factory):
    named = Named("digits-vit", batch_size=4)
    encoder = open_encoder(named)
    table = make_table(tmp_path_factory.mktemp("tables") / "p.lance", made_by(named, encoder, 2.0))
    bring_up_to_date(table, find_files(str(folder)), Local(encoder, 0, 2.0))

    def texts(asked):  # a tower that says of every text what the model sees in 1.png
        with encoder.attached() as running:
            seen = encoder.see([Image.open(folder / "1.png").convert("RGB")])
            return running.embed(seen[None])[0]

    object.__setattr__(encoder, "open_texts", lambda: texts)
    return Finder(table, encoder)


@pytest.fixture
def client(finder):
    return TestClient(create_app(finder, top=3), base_url="http://127.0.0.1")


def test_a_text_finds_and_the_query_stays_in_the_box(client):
    page = client.get("/", params={"q": 'a "red" car'})
    assert page.status_code == 200
    assert 'value="a &quot;red&quot; car"' in page.text
    names = [part.partition('"')[0] for part in page.text.split('<img alt="')[1:]]
    assert len(names) == 3
    assert names[0] == "1.png"
    assert "likeness 1.000, 35 tokens kept" in page.text
    assert "4 photographs" in page.text
    assert "script-src 'self'" in page.headers["content-security-policy"]


def test_an_empty_search_shows_the_page_and_an_empty_table_says_so(client, finder, monkeypatch):
    assert "<figure>" not in client.get("/").text
    assert "Nothing found" not in client.get("/").text
    monkeypatch.setattr(type(finder.table), "nearest", lambda *_: [])
    assert "Nothing found." in client.get("/", params={"q": "a"}).text


def test_an_image_finds_and_a_name_with_markup_is_text(client, folder):
    page = client.post("/", files={"image": (MARKUP, (folder / MARKUP).read_bytes())})
    assert page.status_code == 200
    assert "<img src=x" not in page.text
    assert 'alt="&lt;img src=x onerror=document.title=&#x27;run&#x27;&gt;.png"' in page.text


def test_a_broken_image_and_a_model_without_texts_are_said(client, finder, monkeypatch):
    page = client.post("/", files={"image": ("<b>.png", b"no image")})
    assert page.status_code == 400
    assert '<p role="alert">the file cannot be read as an image' in page.text

    def none():
        raise InputError("digits-vit has no tower for texts")

    finder.encoder.__dict__.pop("texts", None)
    before = finder.encoder.open_texts
    object.__setattr__(finder.encoder, "open_texts", none)
    page = client.get("/", params={"q": "a"})
    object.__setattr__(finder.encoder, "open_texts", before)
    assert (page.status_code, "no tower for texts" in page.text) == (400, True)
    assert client.post("/", files={}).status_code == 422


def test_what_was_kept_is_drawn_of_rows_alone(client, folder):
    drawn = client.get("/kept", params={"path": str(folder / MARKUP)})
    assert drawn.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(drawn.content)).width > 500
    assert client.get("/kept", params={"path": "/etc/passwd"}).status_code == 404
    assert client.get("/kept", params={"path": str(folder / "0.png"), "second": "nan"}).is_error
    other = {"path": str(folder / "0.png"), "second": 1.0}
    assert client.get("/kept", params=other).status_code == 404


def test_another_sites_name_is_not_answered(finder):
    assert TestClient(create_app(finder), base_url="http://evil.test").get("/").status_code == 400
    own = TestClient(create_app(finder, host="fe80::1"), base_url="http://[fe80::1]:8000")
    assert own.get("/").status_code == 200
    everywhere = create_app(finder, host="0.0.0.0")
    assert TestClient(everywhere, base_url="http://my.host").get("/").status_code == 200


def test_a_port_that_is_taken_is_said_in_one_line(run, finder):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, _, err = run("serve", finder.table.path, "--port", port)
    assert status == 2
    assert f"cannot listen at --host 127.0.0.1 --port {port}: Address already in use" in err


@pytest.fixture
def address(finder):
    """The site on a port of its own, in a thread."""
    config = uvicorn.Config(create_app(finder, top=3), port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs /usr/bin/chromium")
def test_a_browser_searches_drops_an_image_and_runs_no_name(address, folder):
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        page = browser.new_page()
        page.goto(address)
        page.fill("input[name=q]", "a car")
        page.press("input[name=q]", "Enter")
        page.wait_for_selector("figure")
        assert page.locator("figcaption").first.inner_text().startswith("1.png")
        data = page.evaluate_handle(
            """async bytes => { const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "x.png")); return data; }""",
            list((folder / MARKUP).read_bytes()),
        )
        with page.expect_navigation():
            page.dispatch_event("main", "drop", {"dataTransfer": data})
        assert page.locator("figcaption").first.inner_text().startswith(MARKUP)
        assert page.locator("figure img").count() == 3
        assert page.evaluate("document.querySelector('img').naturalWidth") == 32
        assert page.title().endswith("p.lance")
        with page.expect_navigation():
            page.get_by_text("what was kept").first.click()
        assert page.evaluate("document.images[0].naturalWidth") > 500
        browser.close()
