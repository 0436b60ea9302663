"""The style sheet inside every page."""

SHEET = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --wash: #f5f6f8; --ink: #1f2328; --muted: #59636e; --grid: #e1e5ea;
  --unknown: #c5ccd4; --accent: #a84300; --link: #0a5c96; --best: #d55e00; --blue: #0072b2;
  --shade: #0003;
  --text: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  --title: Charter, "Bitstream Charter", "Sitka Text", Cambria, Georgia, serif;
  --mono: ui-monospace, "Cascadia Code", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171c; --wash: #1c2128; --ink: #e6e9ed; --muted: #9ba5b1; --grid: #2b323b;
    --unknown: #4b545f; --accent: #f2935c; --link: #6cb6f0; --best: #f0803c; --blue: #4ba3e3;
    --shade: #fff3;
  }
}
* { box-sizing: border-box; }
html { background: var(--paper); -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; max-width: 56rem; padding: 3rem 1.5rem 5rem; color: var(--ink);
  font: 1rem/1.55 var(--text);
}
h1, h2 { font-family: var(--title); font-weight: 600; line-height: 1.15; text-wrap: balance; }
h1 { font-size: 2.3rem; margin: 0 0 .6rem; overflow-wrap: anywhere; letter-spacing: -.01em; }
h2 { font-size: 1.5rem; margin: 0 0 .9rem; padding-top: 1.1rem; border-top: 1px solid var(--grid); }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
section { margin-top: 3rem; }
p { margin: 0 0 .9rem; max-width: 42rem; }
section li { margin-bottom: .35rem; max-width: 40rem; }
a { color: var(--link); text-underline-offset: .15em; }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
.kind { color: var(--muted); margin: 0 0 .5rem; font-size: .9rem; }
.lede { font-size: 1.1rem; }
.note { color: var(--muted); font-size: .9rem; }
.warning { border-left: 4px solid var(--accent); padding: .1rem 0 .1rem 1rem; }
nav { margin: 1.6rem 0 0; font-size: .92rem; }
nav ul {
  display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; list-style: none; margin: 0; padding: 0;
}
code, pre { font-family: var(--mono); font-size: .86em; }
code { overflow-wrap: anywhere; }
pre {
  background: var(--wash); padding: 1rem; overflow-x: auto; border-radius: 4px; line-height: 1.45;
}

.score {
  display: flex; flex-wrap: wrap; align-items: baseline; gap: .2rem 1.4rem; margin: 2rem 0 .4rem;
}
.score strong {
  font: 600 4rem/1 var(--title); color: var(--accent); font-variant-numeric: lining-nums;
  letter-spacing: -.02em;
}
.biased strong { color: var(--muted); }
.score span { max-width: 30rem; }
.numbers {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: 1rem 1.5rem;
  margin: 2rem 0 0; padding: 0;
}
.numbers + .warning { margin-top: 1.4rem; }
.numbers dt { color: var(--muted); font-size: .85rem; }
.numbers dd { margin: 0; font-size: 1.3rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.numbers small { display: block; color: var(--muted); font-size: .82rem; }
.facts { margin: 0 0 1rem; columns: 2; column-gap: 2.5rem; font-size: .93rem; line-height: 1.4; }
.facts div {
  display: grid; grid-template-columns: 8.2rem 1fr; gap: .8rem; break-inside: avoid;
  padding: .34rem 0; border-bottom: 1px solid var(--grid);
}
.facts dt { color: var(--muted); }
.facts dd { margin: 0; overflow-wrap: anywhere; }

figure { margin: 1.2rem 0 0; }
.plot {  /* where it scrolls, a shade at the side says so */
  overflow-x: auto;
  background:
    linear-gradient(to right, var(--paper) 40%, transparent) left / 3rem 100% no-repeat local,
    linear-gradient(to left, var(--paper) 40%, transparent) right / 3rem 100% no-repeat local,
    linear-gradient(to right, var(--shade), transparent) left / 1rem 100% no-repeat scroll,
    linear-gradient(to left, var(--shade), transparent) right / 1rem 100% no-repeat scroll;
}
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 1rem; }
.gallery img { display: block; width: 100%; image-rendering: pixelated; }
.gallery small { color: var(--muted); }
figure svg { display: block; width: 100%; height: auto; font-family: var(--text); }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figure svg text { fill: var(--ink); font-variant-numeric: tabular-nums; }
figcaption { color: var(--muted); font-size: .92rem; margin-top: .7rem; max-width: 46rem; }
.pick {
  position: sticky; top: 0; z-index: 2; display: block; width: fit-content;
  margin: 0 0 0 auto;
  padding: .3rem 0 .3rem .6rem; background: var(--paper); color: var(--muted); font-size: .85rem;
}
.pick select { font: inherit; color: var(--ink); background: var(--paper); max-width: 10rem; }
.says {
  position: fixed; z-index: 3; pointer-events: none; max-width: 20rem; padding: .25rem .55rem;
  background: var(--ink); color: var(--paper); border-radius: 4px; font-size: .82rem;
  line-height: 1.35; font-variant-numeric: tabular-nums;
}
[data-member] { cursor: pointer; }
[data-member=""] { cursor: default; }
.picking [data-member]:not(.picked) { opacity: .1; }
.picking g.picked path { stroke: var(--ink) !important; stroke-opacity: 1 !important; }
.picking g.picked > path { stroke-width: 1.8px !important; }
.swatch {
  display: inline-block; width: .65em; height: .65em; border-radius: 50%; margin-right: .3em;
}

.scroll {
  overflow: auto; max-height: 34rem; margin-top: .6rem; border-bottom: 1px solid var(--grid);
}
table {
  border-collapse: collapse; width: 100%; font-size: .86rem; font-variant-numeric: tabular-nums;
}
caption { text-align: left; color: var(--muted); font-size: .92rem; padding: 0 0 .5rem; }
th, td { padding: .3rem .55rem; text-align: left; vertical-align: top; white-space: nowrap; }
th:first-child { padding-left: .2rem; }
tbody code { display: inline-block; max-width: 24rem; white-space: normal; }
thead th {
  position: sticky; top: 0; background: var(--paper); z-index: 1; vertical-align: bottom;
  box-shadow: inset 0 -1px 0 var(--muted); font-weight: 600;
}
tbody th { font-weight: 400; }
tbody tr:nth-child(even) { background: var(--wash); }
tbody tr.copy > * { font-weight: 600; }
tbody tr.best th, tbody tr.best td { color: var(--accent); font-weight: 600; }
.number { text-align: right; }
th button {
  font: inherit; color: inherit; background: none; border: 0; padding: 0; margin: 0;
  cursor: pointer; text-align: inherit;
}
th button::after { content: "\\2195"; opacity: .35; padding-left: .3em; }
th[aria-sort] button::after { content: "\\2191"; opacity: 1; }
th[aria-sort=descending] button::after { content: "\\2193"; }
.filter {
  display: flex; flex-wrap: wrap; gap: .4rem 1.2rem; align-items: center; margin: .8rem 0 .2rem;
  font-size: .9rem;
}
.filter input[type=search] {
  font: inherit; color: inherit; background: var(--paper); border: 1px solid var(--muted);
  border-radius: 4px; padding: .25rem .5rem; width: 14rem; max-width: 100%;
}
details { margin-top: 1rem; }
summary { cursor: pointer; color: var(--link); }
footer {
  margin-top: 4rem; color: var(--muted); font-size: .88rem; border-top: 1px solid var(--grid);
  padding-top: 1rem;
}

@media (min-width: 60rem) {
  .scroll {  /* a table may be wider than the text, up to the window */
    position: relative; left: 50%; transform: translateX(-50%);
    width: max-content; min-width: 100%; max-width: calc(100vw - 3rem);
  }
}
@media (max-width: 44rem) {
  body { padding: 1.6rem 1rem 3rem; }
  h1 { font-size: 1.75rem; }
  .score strong { font-size: 3rem; }
  .facts { columns: 1; }
  caption { max-width: calc(100vw - 2rem); }
  tbody code { max-width: 11rem; }
  tbody th:not(.number) { white-space: normal; min-width: 8rem; }
  figure svg { min-width: 32rem; }
}
@media print {
  :root {
    --paper: #ffffff; --wash: #f5f6f8; --ink: #000000; --muted: #4a4f55; --grid: #d5d9de;
    --unknown: #c5ccd4; --accent: #a84300; --link: #000000; --best: #d55e00; --blue: #0072b2;
  }
  html { font-size: 10pt; }
  body { max-width: none; padding: 0; }
  nav, .filter, .pick { display: none; }
  .scroll, .plot { overflow: visible; max-height: none; background: none; }
  figure, .facts div, tr { break-inside: avoid; }
  h2 { break-after: avoid; }
  th, td { white-space: normal; padding: .2rem .35rem; }
  thead th { position: static; }
  table { font-size: 7.5pt; }
  section { margin-top: 1.5rem; }
  th button::after { content: none; }
}
"""
