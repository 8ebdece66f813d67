"""The page for people: whole, harmless, readable. Looked at by a parser, and by Chromium where there is one."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import http.server
import json
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser

import pytest

from fcgi_procmanager.status import look, page, picture
from fcgi_procmanager.status.snapshot import PoolStatus, Sample
from harness.tools import require_any
from status.pools import HOSTILE, NOW, crowded, empty, history, hostile, pool, worker, workers

VOID = {"meta", "link", "path"}  # without an end
ALLOWED = {
    *(
        "html",
        "head",
        "meta",
        "link",
        "title",
        "style",
        "body",
        "main",
        "header",
        "footer",
        "h1",
        "p",
        "strong",
        "span",
        "small",
    ),
    *("dl", "dt", "dd", "div", "figure", "figcaption", "ul", "li", "i", "svg", "desc", "path"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td"),
}


class Skeleton(HTMLParser):
    """The elements and their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def skeleton(given: PoolStatus, refresh: int = page.REFRESH) -> Skeleton:
    return Skeleton(page.render(given, refresh).decode())


# Safe


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_no_string_becomes_markup(text: str) -> None:
    found = skeleton(hostile(text))
    assert found.elements == skeleton(hostile("plain")).elements
    assert {tag for tag, _ in found.elements} <= ALLOWED
    assert not [name for _, name, _ in found.attributes if name.startswith("on") or name in ("style", "src")]
    assert {value for _, name, value in found.attributes if name == "href"} == {"data:,"}
    page.render(hostile(text)).decode()
    outside_of_the_style = page.render(hostile(text)).decode().replace(look.STYLE, "")
    assert outside_of_the_style.replace("\n", "").isprintable()


def test_a_string_is_shown_as_it_is() -> None:
    assert "GET /a?b=<i>\"&amp;'" in skeleton(pool(workers=(worker(uri="/a?b=<i>\"&amp;'"),))).text


def test_a_long_string_is_cut() -> None:
    assert len(page.render(hostile("<" * 10_000))) < 60_000


def test_the_headers_let_nothing_run_but_our_style() -> None:
    headers = dict(page.HEADERS)
    policy = headers["Content-Security-Policy"]
    style = re.search("<style>(.*?)</style>", page.render(pool()).decode(), re.DOTALL)
    assert style
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert headers["Cache-Control"] == "no-store"
    assert headers["Content-Type"] == "text/html; charset=utf-8"


def test_nothing_comes_from_elsewhere() -> None:
    text = page.render(pool()).decode()
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<script|<img|<iframe", text)


# Whole


def test_what_is_on_it() -> None:
    text = " ".join(skeleton(pool()).text.split())
    for part in (
        "ok 3 of 8 workers idle, nothing waits",
        "POST /reports/2026/annual?format=pdf",
        "[max_memory] GET /articles/4718?page=2",
        "Memory of 200M",
        "Requests of 10,000",
        "Time of 30s",
        "Requests4 a second",
        "POST /pay 3 times",
        "n_processes 8",
        "8 workers, the limit",
        "9m55s ago",
        "2027-01-15 08:00:00 UTC",
    ):
        assert part in text
    assert "<title>ok: shop</title>" in page.render(pool()).decode()


@pytest.mark.parametrize(
    ("given", "level"), [(pool(), "ok"), (pool(workers=workers(long=8)), "busy"), (empty(), "down")]
)
def test_the_verdict_is_on_top(given: PoolStatus, level: str) -> None:
    text = page.render(given).decode()
    assert f'<p class="verdict {level}"><strong>{level}</strong>' in text
    assert text.index('class="verdict') < text.index('class="tiles"')


def test_nobody_and_a_thousand() -> None:
    found = skeleton(empty())
    assert "No worker." in found.text
    assert "No history yet." in found.text
    many = page.render(crowded())
    assert many.count(b'<tr role="row">') == 1001
    assert len(many) < 700_000


def test_it_comes_again_when_it_is_told_to() -> None:
    assert b'<meta http-equiv="refresh" content="5">' in page.render(pool())
    assert b"refresh" not in page.render(pool(), refresh=0)


@pytest.mark.parametrize("now", [-1.0, 0.0, 9e18])
def test_a_clock_that_is_wrong_is_no_reason_to_fail(now: float) -> None:
    assert b" UTC" in page.render(pool(now=now))


# The picture


def paths(given: PoolStatus) -> dict[str, str]:
    return dict(re.findall(r'<path class="(?:area )?(\w+)" d="([^"]*)"', picture.render(given)))


def test_areas_in_steps_and_what_waited() -> None:
    samples = (Sample(NOW - 100, 2, 1), Sample(NOW - 50, 1, 3, 0, 6), Sample(NOW - 25, 0, 4, 0, 3))
    found = paths(pool(history=samples, limits={"n_processes": 4}))
    assert found["active"] == "M0 150.0H500.0V50.0H750.0V0.0H1000L1000 200.0H0Z"
    assert found["idle"] == "M0 50.0H500.0V0.0H1000L1000 0.0H750.0V50.0H500.0V150.0H0Z"
    assert found["queue"] == "M0 200.0H500.0V0.0H750.0V100.0H1000"
    assert "starting" not in found


def test_without_a_history_there_is_no_picture() -> None:
    assert picture.render(empty()) == ""


@pytest.mark.parametrize(
    "samples",
    [
        (Sample(NOW, 0, 0),),
        (Sample(NOW, 1, 1), Sample(NOW, 2, 2)),
        tuple(reversed(history())),
        (Sample(NOW + 500, 1, 1), Sample(NOW - 5, 1, 2)),
        history(5000, 1.0),
        (Sample(2.0**60, 1, 1), Sample(2.0**60, 1, 2, 0, 1)),
    ],
    ids=["one", "the same time", "backwards", "from the future", "many", "too far away to count seconds"],
)
def test_any_history_has_a_picture_of_a_bounded_size(samples: tuple[Sample, ...]) -> None:
    text = picture.render(pool(history=samples))
    assert len(text) < 60_000
    numbers = [float(number) for d in re.findall(r' d="([^"]*)"', text) for number in re.findall(r"-?[\d.]+", d)]
    assert all(0 <= number <= 1000 for number in numbers)


def test_of_samples_that_cannot_be_told_apart_the_busiest_one_stands() -> None:
    calm = [Sample(NOW - 5000 + number, 3, 1) for number in range(5000)]
    calm[2500] = calm[2500]._replace(active=8, queue=77)
    shown = picture.samples(pool(history=tuple(calm)))
    assert len(shown) <= 400
    assert max(sample.queue for sample in shown) == 77


def test_it_is_told_in_words() -> None:
    text = picture.render(pool())
    assert 'role="img" aria-labelledby="pic-t pic-d"' in text
    assert "<desc" in text
    assert "Workers in a request: 1 to 7. Idle workers: 0 to 3. At most 12 connections waited." in html.unescape(text)


# Readable


def colours(style: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+):(#[0-9a-f]{6})", style))


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_contrast_is_that_of_wcag_aa(dark: bool) -> None:
    light, _, rest = look.STYLE.partition("@media (prefers-color-scheme:dark)")
    known: Mapping[str, str] = colours(rest) if dark else colours(light)
    assert set(colours(light)) == set(colours(rest))
    texts = [(ink, ground) for ink in ("ink", "soft") for ground in ("page", "card")]
    texts += [(name, f"{name}-ground") for name in ("ok", "busy", "down", "work")]
    assert {pair: ratio for pair in texts if (ratio := contrast(known[pair[0]], known[pair[1]])) < 4.5} == {}
    # Parts of a picture: each line against what is behind it, and the area that matters against the others.
    parts = [("active", "card"), ("active", "idle"), ("queue", "card")]
    assert {pair: ratio for pair in parts if (ratio := contrast(known[pair[0]], known[pair[1]])) < 3} == {}


def test_a_table_stays_one_for_those_who_hear_it() -> None:
    text = page.render(pool()).decode()
    assert '<html lang="en">' in text
    assert text.count('<th role="columnheader" scope="col">') == 10
    assert '<table role="table">\n<caption>' in text
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in text


def test_the_cards_of_a_narrow_screen_have_the_columns_titles() -> None:
    titles = [column.title for column in page._COLUMNS]
    labels = dict(re.findall(r'td:nth-child\((\d+)\)::before\{content:"(\w+)"\}', look.STYLE))
    assert [labels[str(number)] for number in range(1, len(titles))] == titles[:-1]


# In a browser

WIDTHS = (320, 375, 768, 1088, 1089, 1280)

# Frames of several widths, and what became of the page in each.
WATCHER = """<!DOCTYPE html><title>watcher</title><body><script>
const frames = NAMES.flatMap(name => WIDTHS.map(width => {
  const frame = document.createElement("iframe");
  frame.src = name; frame.style.width = width + "px"; frame.style.height = "900px"; frame.style.border = 0;
  frame.dataset.name = name; frame.dataset.width = width;
  document.body.append(frame);
  return frame;
}));
addEventListener("load", () => {
  const seen = frames.map(frame => {
    const page = frame.contentDocument, root = page.documentElement;
    return {name: frame.dataset.name, width: +frame.dataset.width, needs: root.scrollWidth, elements: page.querySelectorAll("*").length,
      scripts: page.querySelectorAll("script").length, title: page.title, ran: Boolean(frame.contentWindow.ran),
      ground: frame.contentWindow.getComputedStyle(page.body).backgroundColor};
  });
  document.body.innerHTML = "<pre id=seen></pre>";
  document.getElementById("seen").textContent = JSON.stringify(seen);
});
</script>"""


@contextlib.contextmanager
def served(pages: Mapping[str, bytes]) -> Iterator[str]:
    """The pages with their headers, but in frames of ours; the watcher besides."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.strip("/")
            body = pages.get(name, b"")
            self.send_response(200 if body else 404)
            for header, value in page.HEADERS if name != "watcher" else (("Content-Type", "text/html"),):
                self.send_header(header, value.replace("frame-ancestors 'none'", "frame-ancestors 'self'"))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_chromium_runs_nothing_and_needs_no_scrolling_sideways() -> None:
    chromium = require_any("chromium", "chromium-browser", "google-chrome")
    attack = (
        "/<script>ran=1</script><img src=x onerror=ran=1><svg onload=ran=1>\"'><style>*{width:9999px}</style>"
        + "x" * 300
    )
    pages = {"day": page.render(pool(), 0), "empty": page.render(empty(), 0), "plain": page.render(hostile("plain"), 0)}
    pages["attack"] = page.render(hostile(attack), 0)
    pages["wide"] = page.render(
        pool(workers=(worker(4194304, requests=10**9, started=0.0, memory=1000 * 2**30, cpu=6400.0),)), 0
    )
    watcher = WATCHER.replace("NAMES", json.dumps(list(pages))).replace("WIDTHS", json.dumps(WIDTHS))
    profile = tempfile.mkdtemp(prefix="pm-chromium-")
    try:
        with served({**pages, "watcher": watcher.encode()}) as address:
            done = subprocess.run(
                [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                 "--disable-extensions", "--disable-background-networking", "--hide-scrollbars", f"--user-data-dir={profile}",
                 "--virtual-time-budget=20000", "--dump-dom", f"{address}/watcher"],
                capture_output=True, text=True, check=False, timeout=200,
            )  # fmt: skip
    finally:
        shutil.rmtree(profile, ignore_errors=True)
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    seen = json.loads(html.unescape(found[1]))
    assert len(seen) == len(pages) * len(WIDTHS)
    assert [one for one in seen if one["needs"] > one["width"]] == []
    assert [one for one in seen if one["ran"] or one["scripts"] or one["ground"] == "rgba(0, 0, 0, 0)"] == []
    counts = {one["name"]: one["elements"] for one in seen}
    assert counts["attack"] == counts["plain"]
    assert {one["title"] for one in seen if one["name"] == "day"} == {"ok: shop"}
