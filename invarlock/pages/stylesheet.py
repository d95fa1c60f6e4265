"""The style sheet of all pages, for screens of any width and for print, light and dark, without external resources."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#57606c;--rule:#d9dee4;--paper:#fff;--shade:#f5f7f9;
--good:#11653a;--bad:#a81f18;--warn:#7a5200;--mark:#2453bf;--goodly:#e3f4ea;--badly:#fce8e6;--warnly:#fbf0d5}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#a3adba;--rule:#333a44;--paper:#14171b;--shade:#1c2026;
--good:#6fd6a3;--bad:#ff9a93;--warn:#ecc15c;--mark:#93b3ff;--goodly:#16301f;--badly:#3d1b19;--warnly:#352a10}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:62rem;padding:1.5rem 1.25rem 3rem;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
.wide{max-width:78rem}.wide header,.wide main>p{max-width:56rem}
header{border-bottom:1px solid var(--rule);padding-bottom:1rem}
a{color:var(--mark);text-underline-offset:.15em}
nav{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;font-size:.88rem;margin:0 0 .8rem}
.kind{color:var(--soft);font-size:.8rem;letter-spacing:.06em;text-transform:uppercase;margin:0}
h1{font-size:1.6rem;line-height:1.25;margin:.15rem 0 .6rem;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:2.2rem 0 .5rem}
h3{font-size:.95rem;margin:1.2rem 0 .35rem}
p{margin:.35rem 0;overflow-wrap:anywhere}
ul{margin:.35rem 0;padding-left:1.2rem}li{overflow-wrap:anywhere;unicode-bidi:isolate}
.lead{font-size:1.05rem}
.soft,figcaption,footer,small{color:var(--soft);font-size:.85rem}
.pass,.fail,.warn,.error,.note{display:inline-block;border-radius:.3rem;padding:0 .45rem;font-size:.8rem;
font-weight:600;white-space:nowrap;vertical-align:.06em}
.pass{color:var(--good);background:var(--goodly)}.fail,.error{color:var(--bad);background:var(--badly)}
.warn{color:var(--warn);background:var(--warnly)}.note{color:var(--soft);background:var(--shade)}
header .pass,header .fail,header .note{font-size:1rem;padding:.1rem .7rem;margin-right:.6rem}
.box{border-left:.3rem solid var(--warn);background:var(--warnly);padding:.6rem .9rem;margin:1rem 0;border-radius:.2rem}
.box.bad{border-color:var(--bad);background:var(--badly)}.box h2{margin:0 0 .3rem}
.figure{font-size:2rem;font-weight:600;font-variant-numeric:tabular-nums;line-height:1.2}
table{border-collapse:collapse;width:100%;font-size:.88rem;margin:.3rem 0}
th,td{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid var(--rule);vertical-align:top;
overflow-wrap:anywhere;unicode-bidi:isolate}
th{font-weight:600;color:var(--soft)}thead th{white-space:nowrap;vertical-align:bottom}
th button{all:unset;cursor:pointer;text-decoration:underline dotted;text-underline-offset:.2em}
th button:focus-visible{outline:2px solid var(--mark)}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
code{font:.85em/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;overflow-wrap:anywhere;
unicode-bidi:isolate}
pre{background:var(--shade);padding:.6rem .8rem;border-radius:.3rem;white-space:pre-wrap;
overflow-wrap:anywhere;margin:.4rem 0}
dl{display:grid;grid-template-columns:minmax(7rem,auto) 1fr;gap:.2rem 1.2rem;margin:.4rem 0;font-size:.9rem}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere;unicode-bidi:isolate}
details{margin:.6rem 0;border-top:1px solid var(--rule)}summary{cursor:pointer;padding:.4rem 0;font-weight:600}
summary h2,summary h3{display:inline;margin:0}
figure{margin:.5rem 0}
svg{display:block;width:100%;max-width:40rem;height:auto;background:var(--shade);border-radius:.3rem}
svg text{font:12px system-ui,sans-serif;fill:var(--soft);stroke:var(--shade);stroke-width:4;paint-order:stroke}
.axis{stroke:var(--soft);stroke-width:1;opacity:.6}.limit{stroke:var(--bad);stroke-width:1.5;stroke-dasharray:4 3}
.range{stroke:var(--mark);stroke-width:5;stroke-linecap:round;opacity:.55}.point{fill:var(--mark)}
.bars{stroke:var(--mark);fill:none;opacity:.85}
.range.beyond,.bars.beyond{stroke:var(--bad)}.point.beyond{fill:var(--bad)}
.columns{columns:2 20rem;column-gap:2rem}.columns dl{margin:0}.columns dl>*{break-inside:avoid}
.scroll{overflow-x:auto}.scroll:focus-visible{outline:2px solid var(--mark)}
.grid{width:auto;font-size:.84rem}.grid th,.grid td{padding:.22rem .6rem;border:1px solid var(--rule)}
.cards td:not(.number){min-width:4.5rem}
.grid th{overflow-wrap:normal}.grid tbody th{font-weight:400;color:var(--ink)}
.grid .of th{font-weight:600;background:var(--shade)}
.grid td{text-align:center;white-space:nowrap}.grid td a{color:inherit;display:block}.grid td small{display:block}
.grid .p{background:var(--goodly);color:var(--good)}.grid .f{background:var(--badly);color:var(--bad);font-weight:600}
.grid .n{background:var(--shade);color:var(--ink)}.grid small{color:inherit}
.controls{display:flex;flex-wrap:wrap;gap:.5rem 1rem;align-items:end;margin:.5rem 0;font-size:.88rem}
.controls label{display:flex;flex-direction:column;color:var(--soft)}
.controls input,.controls select{font:inherit;color:var(--ink);background:var(--paper);border:1px solid var(--soft);
border-radius:.25rem;padding:.2rem .4rem;max-width:100%}
.controls p{margin:0;padding:.2rem 0}
footer{border-top:1px solid var(--rule);margin-top:2rem;padding-top:.8rem}
@media(max-width:46rem){body{padding:1rem .8rem 2rem}h1{font-size:1.3rem}
.cards thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.cards,.cards tbody{display:block}.cards tr{display:block;border-bottom:1px solid var(--rule);padding:.5rem 0}
.cards td,.cards td:not(.number){display:block;border:0;padding:.08rem 0;min-width:0}.cards tr[hidden]{display:none}
.cards td[data-l]{display:grid;grid-template-columns:8rem 1fr;gap:.6rem}
.cards td[data-l]::before{content:attr(data-l);color:var(--soft)}
.cards .number{text-align:left;white-space:normal}
.grid{font-size:.75rem}.grid th,.grid td{padding:.2rem .25rem}.grid thead th{white-space:normal}
dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.4rem}.figure{font-size:1.6rem}}
@media print{details::details-content{display:block;content-visibility:visible}
:root{color-scheme:light;--ink:#000;--soft:#444;--rule:#bbb;--paper:#fff;--shade:#fff;--good:#11653a;
--bad:#a81f18;--warn:#7a5200;--mark:#2453bf;--goodly:#fff;--badly:#fff;--warnly:#fff}
.pass,.fail,.warn,.error,.note{border:1px solid currentColor}.controls{display:none}
html{font-size:12px}body{max-width:none;padding:0;font-size:9pt}h2,h3{break-after:avoid}tr,figure,dl>*{break-inside:avoid}
footer{margin-bottom:0}svg{border:1px solid var(--rule)}@page{margin:15mm}}
"""
