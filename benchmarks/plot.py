"""The picture of docs/PERFORMANCE.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

if TYPE_CHECKING:
    from throughput import Report

COLOURS = {
    "ours": "#c0392b",
    "ours-loop": "#e59866",
    "flup": "#7f8c8d",
    "gunicorn": "#27ae60",
    "uwsgi": "#8e44ad",
    "perl": "#2e86c1",
    "php-fpm": "#5d6dd3",
    "libfcgi": "#16a085",
    "bare": "#b7950b",
}

CLIENTS = [("12 B, 1 client", "1"), ("12 B, 16 clients", "16"), ("12 B, 64 clients", "64")]
MANY = ("12 B, 256 clients", "256")
REPLIES = [("12 B, 16 clients", "12 B"), ("10 KB, 16 clients", "10 KB"), ("1 MB, 16 clients", "1 MB")]
BODIES = [
    ("12 B, 16 clients", "none"),
    ("12 B, body of 10 KB, 16 clients", "10 KB"),
    ("12 B, body of 1 MB, 16 clients", "1 MB"),
]
KEPT = [
    ("12 B, 1 client", "1 client"),
    ("12 B, 1 client, kept", "1 client,\nkept"),
    ("12 B, 16 clients", "16 clients"),
    ("12 B, 16 clients, kept", "16 clients,\nkept"),
]


def draw(report: Report, path: Path) -> None:
    figure, panels = pyplot.subplots(2, 3, figsize=(15, 8.4), layout="constrained")
    clients = [*CLIENTS, MANY] if MANY[0] in report.found else CLIENTS
    _lines(panels[0][0], report, clients, "Requests a second by concurrent clients (reply of 12 B)")
    _lines(panels[0][1], report, REPLIES, "… by size of the reply (16 clients)", log=True)
    _lines(panels[0][2], report, BODIES, "… by size of the request's body (16 clients)", log=True)
    _bars(panels[1][0], report, KEPT, "… with connections of nginx kept or not (12 B)")
    _cpu(panels[1][1], report, "12 B, 16 clients", "CPU of the workers per request, µs (12 B, 16 clients)")
    _cpu(panels[1][2], report, "10 KB, 16 clients", "CPU of the workers per request, µs (10 KB, 16 clients)")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle("Behind nginx, two workers each; medians. " + report.conditions.replace("**", ""), fontsize=10)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def _median(values: Sequence[float]) -> float:
    from common import figure

    return figure(values).median if values else float("nan")


def _lines(panel: Any, report: Report, cases: list[tuple[str, str]], title: str, log: bool = False) -> None:
    for peer in report.peers:
        rates = [report.rates(case, peer) for case, _ in cases]
        if not all(rates):
            continue
        heights = [_median(found) for found in rates]
        ours = peer == "ours"
        style = {"linewidth": 2.8, "zorder": 3} if ours else {"linewidth": 1.4}
        panel.plot(range(len(cases)), heights, marker="o", label=peer, color=COLOURS.get(peer), **style)
    panel.set_xticks(range(len(cases)), [label for _, label in cases])
    panel.set_xlim(-0.3, len(cases) - 0.7)
    if log:
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    _finish(panel, title, log)


def _bars(panel: Any, report: Report, cases: list[tuple[str, str]], title: str) -> None:
    width = 0.84 / len(report.peers)
    for number, peer in enumerate(report.peers):
        at = [place - 0.42 + width * (number + 0.5) for place in range(len(cases))]
        panel.bar(at, [_median(report.rates(case, peer)) for case, _ in cases], width, color=COLOURS.get(peer))
    panel.set_xticks(range(len(cases)), [label for _, label in cases])
    _finish(panel, title)


def _cpu(panel: Any, report: Report, case: str, title: str) -> None:
    found = sorted((_median(cpus), peer) for peer in report.peers if (cpus := report.cpus(case, peer)))
    names = [peer for _, peer in found][::-1]
    bars = panel.barh(names, [value for value, _ in found][::-1], color=[COLOURS.get(name) for name in names])
    panel.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=9)
    panel.margins(x=0.12)
    panel.set_title(title, fontsize=10)
    panel.grid(axis="x", alpha=0.3)
    panel.set_axisbelow(True)


def _finish(panel: Any, title: str, log: bool = False) -> None:
    panel.set_title(title, fontsize=10)
    panel.grid(axis="y", alpha=0.3, which="both" if log else "major")
    panel.set_axisbelow(True)
    if not log:
        panel.set_ylim(bottom=0)
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
