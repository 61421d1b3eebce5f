"""A web page over a table: a search box, a place to drop an image, thumbnails."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from io import BytesIO
from typing import Annotated
from urllib.parse import urlencode

from fastapi import FastAPI, File, Response
from fastapi.responses import HTMLResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from repshift.errors import InputError
from repshift.evaluation.collection.finding import Finder
from repshift.evaluation.collection.table import Hit
from repshift.evaluation.data.images import decode_image
from repshift.evaluation.report.hits import STYLE, hits_html
from repshift.evaluation.report.names import plain

# Whatever a file is called, nothing of it is run, and nothing is fetched from elsewhere.
_POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; script-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_SCRIPT = """
const form = document.forms.image;
form.image.addEventListener("change", () => form.submit());
addEventListener("dragover", event => event.preventDefault());
addEventListener("drop", event => {
  event.preventDefault();
  if (!event.dataTransfer.files.length) return;
  form.image.files = event.dataTransfer.files;
  form.submit();
});
"""


def create_app(finder: Finder, top: int = 24, host: str = "127.0.0.1") -> FastAPI:
    """The site of a table, which shows the ``top`` files that are found.

    It answers to ``host`` and to the names of this machine for itself alone, so that no page of
    another site can read it (all, if it listens everywhere).
    """
    app = FastAPI(title="repshift", docs_url=None, redoc_url=None, openapi_url=None)
    own = ["127.0.0.1", "localhost", "[::1]", in_address(host)]
    everywhere = host in ("0.0.0.0", "::")
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["*"] if everywhere else own)

    def kept(hit: Hit) -> str:
        if finder.encoder.loaded is None:
            return ""
        asked = {"path": hit.path} | ({} if hit.second is None else {"second": hit.second})
        return f'<a href="{escape("/kept?" + urlencode(asked))}">what was kept</a>'

    def page(what: str, hits: Sequence[Hit] | None, error: str | None = None) -> HTMLResponse:
        said = f'<p role="alert">{escape(plain(error))}</p>' if error else ""
        found = "" if hits is None else hits_html(hits, kept)
        content = _page(str(finder.table.path), len(finder.table), what, said + found)
        policy = {"Content-Security-Policy": _POLICY}
        return HTMLResponse(content, status_code=400 if error else 200, headers=policy)

    @app.get("/")
    def search(q: str = "") -> Response:
        if not q:
            return page("", None)
        try:
            return page(q, finder.by_text(q, top))
        except InputError as error:
            return page(q, None, str(error))

    @app.post("/")
    def like(image: Annotated[bytes, File()]) -> Response:
        try:
            return page("", finder.by_image(decode_image(BytesIO(image), "the file"), top))
        except InputError as error:
            return page("", None, str(error))

    @app.get("/kept")
    def tokens(path: str, second: float | None = None) -> Response:
        try:
            if second is not None and not math.isfinite(second):
                raise InputError(f"second is {second}")
            return Response(finder.kept_tokens(path, second), media_type="image/png")
        except InputError as error:
            return Response(plain(str(error)), status_code=404, media_type="text/plain")

    @app.get("/drop.js")
    def script() -> Response:
        return Response(_SCRIPT, media_type="text/javascript")

    return app


def in_address(host: str) -> str:
    """A host as it stands in an address: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def _page(table: str, rows: int, what: str, found: str) -> str:
    title, asked = escape(plain(table)), escape(what)
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>{STYLE} form {{ display: inline-block; margin: 0 1rem 1rem 0 }}
input[type=search] {{ font: inherit; width: 24rem; max-width: 100% }}</style>
<h1>{title}</h1><p>{rows} photographs and pieces of videos</p>
<form name="text"><input type="search" name="q" value="{asked}" placeholder="what to look for"
aria-label="what to look for" autofocus> <button>Find</button></form>
<form name="image" method="post" enctype="multipart/form-data"><label>or drop an image here:
<input type="file" name="image" accept="image/*"></label></form>
<main>{found}</main><script src="/drop.js"></script></html>
"""
