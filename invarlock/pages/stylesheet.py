"""The style sheet of a report's page, for screen and print, without external resources."""

from __future__ import annotations

import base64
import hashlib

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5b6470;--rule:#d9dee4;--paper:#fff;--shade:#f5f7f9;
--good:#1a7f4b;--bad:#b3261e;--warn:#9a6700;--mark:#2f5fd0}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa4b2;--rule:#333a44;--paper:#14171b;--shade:#1c2026;
--good:#4cc38a;--bad:#ff8078;--warn:#e0b040;--mark:#84a9ff}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:60rem;padding:2rem 1.25rem 3rem;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
header{border-bottom:1px solid var(--rule);padding-bottom:1rem}
.kind{color:var(--soft);font-size:.8rem;letter-spacing:.06em;text-transform:uppercase;margin:0}
h1{font-size:1.6rem;line-height:1.25;margin:.15rem 0 .6rem;overflow-wrap:anywhere}
h2{font-size:1.05rem;margin:2rem 0 .5rem}
h3{font-size:.95rem;margin:1.2rem 0 .35rem}
p{margin:.35rem 0}
ul{margin:.35rem 0;padding-left:1.2rem}
.soft,figcaption,footer{color:var(--soft);font-size:.85rem}
.pass,.fail,.warn,.error{display:inline-block;border-radius:.3rem;padding:0 .45rem;font-size:.78rem;
font-weight:600;border:1px solid currentColor;vertical-align:.08em;white-space:nowrap}
.pass{color:var(--good)}.fail,.error{color:var(--bad)}.warn{color:var(--warn)}
header .pass,header .fail{font-size:1rem;padding:.1rem .7rem;margin-right:.6rem}
.figure{font-size:2rem;font-weight:600;font-variant-numeric:tabular-nums;line-height:1.2}
table{border-collapse:collapse;width:100%;font-size:.88rem;margin:.3rem 0}
th,td{text-align:left;padding:.28rem .8rem .28rem 0;border-bottom:1px solid var(--rule);vertical-align:top;
overflow-wrap:anywhere;unicode-bidi:isolate}
.gates code{white-space:nowrap}
th{font-weight:600;color:var(--soft);white-space:nowrap}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
code{font:.83em/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;overflow-wrap:anywhere;
unicode-bidi:isolate}
dl{display:grid;grid-template-columns:minmax(8rem,auto) 1fr;gap:.2rem 1.2rem;margin:.3rem 0;font-size:.9rem}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere;unicode-bidi:isolate}
figure{margin:.5rem 0}
svg{display:block;width:100%;height:auto;background:var(--shade);border-radius:.3rem}
svg text{font:11px system-ui,sans-serif;fill:var(--soft)}
.axis{stroke:var(--soft);stroke-width:1;opacity:.6}.limit{stroke:var(--bad);stroke-width:1;stroke-dasharray:4 3}
.range{stroke:var(--mark);stroke-width:5;stroke-linecap:round;opacity:.55}.point{fill:var(--mark)}
.bars{stroke:var(--mark);fill:none;opacity:.85}
.range.beyond,.bars.beyond{stroke:var(--bad)}.point.beyond{fill:var(--bad)}
.columns{columns:2 20rem;column-gap:2rem}.columns dl{margin:0}.columns dl>*{break-inside:avoid}
footer{border-top:1px solid var(--rule);margin-top:2rem;padding-top:.8rem}
@media print{:root{color-scheme:light;--ink:#000;--soft:#444;--rule:#bbb;--paper:#fff;--shade:#fff}
html{font-size:12px}body{max-width:none;padding:0;font-size:9pt}h2,h3{break-after:avoid}tr,figure,dl>*{break-inside:avoid}
svg{border:1px solid var(--rule)}@page{margin:15mm}}
"""

# The only resource that a browser may load for the page is this style.
CONTENT_POLICY = (
    "default-src 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(STYLE.encode("utf-8")).digest()).decode("ascii")
    + "'; base-uri 'none'; form-action 'none'"
)
