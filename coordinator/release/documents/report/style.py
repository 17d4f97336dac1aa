"""The page's look: two palettes, one sheet. No font, image or sheet from elsewhere.

`LIGHT` and `DARK` name colours; a test holds every pair of text and ground at a contrast of 4.5 or more.
"""

from __future__ import annotations

from collections.abc import Mapping

LIGHT: Mapping[str, str] = {
    "paper": "#faf8f4",
    "card": "#ffffff",
    "well": "#f1ede4",
    "ink": "#1f1d1a",
    "soft": "#5d574e",
    "line": "#d9d3c7",
    "grid": "#e8e3d9",
    "barn": "#9c2f1d",
    "steel": "#23586f",
    "mist": "#6b8d9c",
    "thread": "#8b8377",
}
DARK: Mapping[str, str] = {
    "paper": "#171613",
    "card": "#1f1d1a",
    "well": "#272420",
    "ink": "#ece7de",
    "soft": "#aea698",
    "line": "#3d3932",
    "grid": "#2d2a25",
    "barn": "#f08d76",
    "steel": "#86bdd3",
    "mist": "#4f7f92",
    "thread": "#8f877a",
}
TEXT = ("ink", "soft", "barn", "steel")
GROUNDS = ("paper", "card", "well")
DRAWN = ("barn", "steel", "mist", "thread")
"""Colours of lines and bars: a contrast of 3 or more against what they stand on."""


def sheet() -> str:
    """The whole style sheet."""
    dark = f"@media (prefers-color-scheme: dark) {{\n:root {{ {_variables(DARK)} }}\n}}"
    light = f":root {{ color-scheme: light dark; {_variables(LIGHT)} }}"
    return f"\n{light}\n{dark}\n{_PAGE}{_PARTS}{_PLOTS}{_MEDIA}"


def _variables(palette: Mapping[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in palette.items())


_PAGE = """
*, *::before, *::after { box-sizing: border-box; }
html {
  font-size: 100%; -webkit-text-size-adjust: 100%; text-size-adjust: 100%; scroll-behavior: smooth;
}
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body {
  margin: 0; background: var(--paper); color: var(--ink); border-top: 5px solid var(--barn);
  font: 1rem/1.6 ui-sans-serif, system-ui, -apple-system, "Segoe UI", "Noto Sans", Roboto,
    "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: break-word;
}
body > * { max-width: 72rem; margin-inline: auto; padding-inline: clamp(1.15rem, 4vw, 2.5rem); }
h1, h2, .lede, .figure-of {
  font-family: "Iowan Old Style", Palatino, "Palatino Linotype", P052, "Book Antiqua", Georgia,
    serif; font-weight: 500;
}
h1 {
  font-size: clamp(2.1rem, 6vw, 3.4rem); line-height: 1.08; letter-spacing: -.015em;
  margin: .35rem 0 1.1rem; text-wrap: balance; overflow-wrap: anywhere;
}
h2 {
  color: var(--ink); font-size: 1.6rem; line-height: 1.2; margin: 0 0 .6rem;
  letter-spacing: -.005em; text-wrap: balance;
}
h3 {
  font-size: 1rem; line-height: 1.35; margin: 0 0 .35rem; font-weight: 650;
  overflow-wrap: anywhere;
}
p { margin: 0 0 .8rem; max-width: 42rem; text-wrap: pretty; }
p:last-child { margin-bottom: 0; }
a {
  color: inherit; text-decoration-color: var(--barn); text-underline-offset: .2em;
  text-decoration-thickness: 1px;
}
a:hover { color: var(--barn); }
:focus-visible { outline: 2px solid var(--barn); outline-offset: 3px; }
code, pre, .digest {
  font-family: ui-monospace, "SF Mono", "Cascadia Code", Menlo, Consolas, "DejaVu Sans Mono",
    monospace; font-size: .86em;
}
code { overflow-wrap: anywhere; }
.eyebrow {
  margin: 0; font-size: .8rem; letter-spacing: .09em; text-transform: uppercase;
  color: var(--barn); font-weight: 600;
}
.soft, figcaption, caption, dt, .note { color: var(--soft); }
"""

_PARTS = """
.top { padding-top: clamp(2rem, 6vw, 4.25rem); padding-bottom: 2.25rem; }
.lede {
  font-size: clamp(1.15rem, 2.4vw, 1.42rem); line-height: 1.45; max-width: 46rem;
  margin-bottom: 2rem;
}
.figures {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 1.4rem 1.5rem;
  margin: 0 0 2.25rem; padding: 1.35rem 0; border-block: 1px solid var(--line);
}
.figures div { display: flex; flex-direction: column-reverse; justify-content: flex-end; }
.figures dd { margin: 0; }
.figures dt { font-size: .84rem; line-height: 1.35; }
.figure-of { font-size: 1.85rem; line-height: 1.2; font-variant-numeric: lining-nums tabular-nums; }
.verify {
  background: var(--well); border-left: 3px solid var(--barn); padding: 1.1rem 1.3rem 1.2rem;
}
.verify p { font-size: .93rem; max-width: none; }
.command {
  display: block; background: var(--card); border: 1px solid var(--line); border-radius: 4px;
  padding: .6rem .8rem; margin: .55rem 0 .8rem; font-size: .92rem; user-select: all;
  -webkit-user-select: all; overflow-wrap: anywhere; white-space: pre-wrap;
}
.digest { overflow-wrap: anywhere; user-select: all; -webkit-user-select: all; }
nav { padding-bottom: 1.25rem; }
nav ul {
  display: flex; flex-wrap: wrap; gap: .3rem 1.35rem; list-style: none; margin: 0; padding: 0;
  font-size: .92rem;
}
.part {
  display: grid; grid-template-columns: minmax(0, 1fr); gap: 1.4rem; padding-block: 2.6rem;
  border-top: 1px solid var(--line);
}
.part > * { min-width: 0; }
.part .note { font-size: .92rem; line-height: 1.55; }
.shown > * + * { margin-top: 1.6rem; }
.shown > p + p { margin-top: 0; }
.verdict { font-size: 1.06rem; }
dl.pairs {
  display: grid; grid-template-columns: minmax(6.5rem, max-content) minmax(0, 1fr);
  gap: .3rem 1.1rem; margin: 0; font-size: .93rem;
}
dl.pairs dt { font-size: .88rem; padding-top: .06rem; }
dl.pairs dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.tiles {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15.5rem), 1fr));
  gap: 1rem; list-style: none; margin: 0; padding: 0;
}
.tiles > li {
  background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  padding: 1rem 1.1rem 1.05rem; display: flex; flex-direction: column; break-inside: avoid;
}
.tiles h3 + p { font-size: .9rem; line-height: 1.4; margin-bottom: .7rem; }
.tiles p { overflow-wrap: anywhere; }
.tiles dl.pairs { font-size: .87rem; grid-template-columns: minmax(0, max-content) minmax(0, 1fr); }
.tiles dl.pairs dt { font-size: inherit; padding: 0; }
.tiles dl.pairs dd { text-align: right; }
.tiles.small {
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 10rem), 1fr)); gap: .8rem;
}
.tiles.small > li { padding: .85rem .9rem .9rem; }
@supports (grid-template-rows: subgrid) {
  .tiles.small > li { display: grid; grid-template-rows: subgrid; grid-row: span 5; row-gap: 0; }
}
.tiles .ends {
  font-size: .85rem; color: var(--soft); margin-bottom: .6rem; font-variant-numeric: tabular-nums;
}
.tiles dl.pairs + p { margin-top: .8rem; }
.tiles .text { text-align: left; font-size: .88rem; line-height: 1.5; }
.table { overflow-x: auto; max-width: 100%; }
table {
  border-collapse: collapse; width: 100%; font-size: .9rem;
  font-variant-numeric: lining-nums tabular-nums;
}
caption { text-align: left; font-size: .88rem; padding-bottom: .6rem; max-width: 44rem; }
th, td {
  text-align: left; vertical-align: baseline; padding: .45rem .9rem .45rem 0;
  border-bottom: 1px solid var(--grid);
}
th:last-child, td:last-child { padding-right: 0; }
thead th, thead td {
  font-size: .82rem; font-weight: 600; color: var(--soft); border-bottom-color: var(--line);
  vertical-align: bottom; line-height: 1.3;
}
tbody th, tfoot th { font-weight: 600; min-width: 5rem; }
tfoot td, tfoot th { border-bottom: 0; border-top: 1px solid var(--line); font-weight: 600; }
.number { text-align: right; white-space: nowrap; }
.wide { overflow-wrap: anywhere; min-width: 9rem; }
th.number { white-space: normal; }
td:has(.between) { vertical-align: middle; width: 45%; }
details { border: 1px solid var(--line); border-radius: 6px; background: var(--card); }
summary { cursor: pointer; padding: .65rem 1rem; font-size: .93rem; }
summary:hover { color: var(--barn); }
details > :not(summary) { margin: 0 1rem 1rem; }
details pre { max-height: 32rem; overflow: auto; margin-top: .2rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.5; margin: 0; }
.two {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr));
  gap: 1.5rem 2.25rem;
}
.two ul, .plain { margin: 0; padding-left: 1.1rem; font-size: .95rem; }
.two li + li, .plain li + li { margin-top: .45rem; }
footer { padding-block: 0 3rem; font-size: .87rem; color: var(--soft); }
footer p { max-width: none; padding-top: 1.5rem; border-top: 1px solid var(--line); }
"""

_PLOTS = """
figure { margin: 0; break-inside: avoid; }
figcaption { font-size: .88rem; line-height: 1.5; max-width: 44rem; margin-top: .5rem; }
.legend {
  list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.3rem; margin: 0 0 .8rem;
  padding: 0; font-size: .88rem;
}
.legend li {
  display: flex; align-items: center; gap: .5rem; min-width: 0; overflow-wrap: anywhere;
}
.swatch { flex: none; overflow: visible; }
.plot {
  display: block; overflow: visible; width: calc(100% - 4rem); height: 19rem;
  margin: 2rem .5rem 2.9rem 3.5rem;
}
.plot.bars { height: 15rem; }
.plot text { font-size: .8rem; fill: var(--soft); font-variant-numeric: lining-nums tabular-nums; }
.plot .y { text-anchor: end; }
.plot .x { text-anchor: middle; }
.plot .unit { transform: translateX(-3.5rem); }
.plot .unit.end { transform: none; text-anchor: end; }
.grid line { stroke: var(--grid); }
.lines { overflow: visible; }
.lines.cut { overflow: hidden; }
.lines path, .swatch line {
  fill: none; stroke-linejoin: round; stroke-linecap: round; vector-effect: non-scaling-stroke;
}
path.together, line.together { stroke: var(--barn); stroke-width: 3; }
path.member, line.member { stroke: var(--thread); stroke-width: 1.1; }
path.own, line.own { stroke: var(--steel); stroke-width: 2; }
path.alone, line.alone { stroke: var(--thread); stroke-width: 1.4; stroke-dasharray: 5 4; }
path.best, line.best { stroke: var(--steel); stroke-width: 2.2; stroke-dasharray: 8 4; }
path.mean, line.mean { stroke: var(--barn); stroke-width: 1.3; stroke-dasharray: 3 3; }
.dots.together { fill: var(--barn); }
line.void { stroke: var(--ink); stroke-width: 1.2; stroke-dasharray: 1 4; stroke-linecap: round; }
.zero { stroke: var(--soft); stroke-width: 1; }
rect { shape-rendering: geometricPrecision; }
rect.train, rect.received { fill: var(--steel); }
rect.evaluate, rect.sent { fill: var(--mist); }
rect.other { fill: var(--paper); stroke: var(--steel); stroke-width: 1; }
.spark { display: block; width: 100%; height: 3rem; margin: .15rem 0 .5rem; overflow: visible; }
.between { width: 100%; min-width: 5rem; height: 1rem; display: block; overflow: visible; }
.between line { stroke: var(--thread); stroke-width: 1.5; }
.between .with { fill: var(--barn); }
.between .without { fill: var(--card); stroke: var(--steel); stroke-width: 2; }
"""

_MEDIA = """
@media (min-width: 62rem) {
  .part { grid-template-columns: 15.5rem minmax(0, 1fr); gap: 3.25rem; }
}
@media (max-width: 40rem) {
  .plot { height: 14.5rem; width: calc(100% - 3rem); margin-left: 2.75rem; margin-right: .25rem; }
  .plot .unit { transform: translateX(-2.75rem); }
  .plot.bars { height: 12.5rem; }
  .figures { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .figure-of { font-size: 1.5rem; }
  .narrow-off { display: none; }
  table { font-size: .84rem; }
  th, td { padding-right: .45rem; }
  tbody th, tfoot th { min-width: 0; }
  caption { max-width: calc(100vw - 2.3rem); }
}
@media print {
  @page { margin: 16mm; }
  body { border-top: 0; background: #fff; font-size: .86rem; }
  nav { display: none; }
  .part { padding-block: 1.4rem; grid-template-columns: minmax(0, 1fr); gap: .8rem; }
  h2 { break-after: avoid; }
  .tiles > li, details, .verify, tr { break-inside: avoid; }
  .figures { grid-template-columns: repeat(4, 1fr); }
}
"""
