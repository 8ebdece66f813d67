"""How the page of a pool looks: its style sheet. Light or dark as the reader has it, and readable on a phone, where each worker is a
card of its own. A test holds each pair of colours to the contrast that WCAG AA asks for. Pure; runs in any process.
"""

from __future__ import annotations

# The labels of a card, by place: those of page.py's columns.
STYLE = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#ffffff;--ink:#1c2128;--soft:#57606a;--line:#d6dbe1;
--ok:#0f5b26;--ok-ground:#ddf5e3;--busy:#6b4300;--busy-ground:#fdf0cd;--down:#98111f;--down-ground:#fde3e1;
--work:#0b4aa2;--work-ground:#e0ebfb;
--active:#1f5fc4;--idle:#9cc0f2;--starting:#b9a3e3;--queue:#b83208}
@media (prefers-color-scheme:dark){:root{--page:#0f1318;--card:#171c23;--ink:#e6edf3;--soft:#9ba6b2;--line:#2c343e;
--ok:#6fdd8b;--ok-ground:#11281a;--busy:#edc25b;--busy-ground:#2c230e;--down:#ff938a;--down-ground:#331618;
--work:#8fbcff;--work-ground:#14263f;
--active:#5a9bf6;--idle:#23446f;--starting:#6d5a9c;--queue:#ff9b57}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
main{max-width:72rem;margin:0 auto;padding:1.25rem 1rem}
h1{display:inline;font-size:1.35rem;margin:0}
small{font-size:.8rem;font-weight:400;color:var(--soft)}
.soft,footer,caption{color:var(--soft)}
.verdict{margin:.9rem 0;padding:.8rem 1rem;border-radius:8px;font-size:1.1rem}
.verdict strong::after{content:":"}
.ok{color:var(--ok);background:var(--ok-ground)}
.busy{color:var(--busy);background:var(--busy-ground)}
.down{color:var(--down);background:var(--down-ground)}
dl,dd,figure{margin:0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.6rem}
.tiles div,figure,.facts,tbody{background:var(--card);border:1px solid var(--line);border-radius:8px}
.tiles div{padding:.5rem .8rem}
dt{color:var(--soft);font-size:.85rem}
.tiles dd{font-size:1.5rem;line-height:1.3}
figure{margin:.9rem 0;padding:.6rem .8rem}
svg{display:block;width:100%;height:10rem;margin:.2rem 0;border:solid var(--line);border-width:1px 0}
.axis{display:flex;justify-content:space-between;font-size:.8rem;min-height:1.2em}
.area{stroke:none}
.area.active{fill:var(--active)}
.area.idle{fill:var(--idle)}
.area.starting{fill:var(--starting)}
path.queue,path.halo{fill:none;stroke:var(--queue);stroke-width:2;vector-effect:non-scaling-stroke}
path.halo{stroke:var(--card);stroke-width:5}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;list-style:none;margin:.3rem 0 0;padding:0;font-size:.85rem}
.legend i{display:inline-block;width:.8em;height:.8em;margin-right:.4em;border-radius:2px}
i.active{background:var(--active)}
i.idle{background:var(--idle)}
i.starting{background:var(--starting)}
i.queue{height:.2em;vertical-align:.25em;background:var(--queue)}
table{width:100%;border-collapse:collapse;font-size:.9rem}
caption{text-align:left;padding:.3rem 0}
th,td{padding:.3rem .6rem;text-align:right;vertical-align:baseline;white-space:nowrap}
th{color:var(--soft);font-weight:600}
th small{display:block}
td{background:var(--card);border-top:1px solid var(--line)}
th:nth-child(2),td:nth-child(2),th:last-child,td:last-child{text-align:left}
td:last-child{white-space:normal;min-width:16rem}
.state{padding:.05rem .5rem;border-radius:1em;border:1px solid var(--line)}
.state.long{color:var(--down);background:var(--down-ground)}
.state.leaving,.state.starting{color:var(--busy);background:var(--busy-ground)}
.state.active{color:var(--work);background:var(--work-ground)}
.facts{margin:.9rem 0;padding:.3rem .8rem}
.facts div{display:grid;grid-template-columns:6rem 1fr;padding:.25rem 0}
footer{max-width:72rem;margin:0 auto;padding:0 1rem 1.5rem;font-size:.85rem}
@media (max-width:68rem){
.facts div{grid-template-columns:5rem 1fr}
thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
table,tbody{display:block;border:0;background:none}
tr{display:grid;grid-template-columns:repeat(auto-fill,minmax(8.5rem,1fr));gap:.1rem .8rem;margin:0 0 .6rem;padding:.5rem .8rem;
background:var(--card);border:1px solid var(--line);border-radius:8px}
caption,thead tr{display:block}
td,td:nth-child(2){display:flex;white-space:normal;justify-content:space-between;gap:.5rem;padding:.1rem 0;border:0;background:none;min-width:0}
td::before{color:var(--soft)}
td:nth-child(1)::before{content:"PID"}
td:nth-child(2)::before{content:"State"}
td:nth-child(3)::before{content:"Time"}
td:nth-child(4)::before{content:"CPU"}
td:nth-child(5)::before{content:"Memory"}
td:nth-child(6)::before{content:"PSS"}
td:nth-child(7)::before{content:"Requests"}
td:nth-child(8)::before{content:"Age"}
td:nth-child(9)::before{content:"Generation"}
td:last-child{grid-column:1/-1;order:-1;justify-content:flex-start;min-width:0;font-weight:600}
}
"""
