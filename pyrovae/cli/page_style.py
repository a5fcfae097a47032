"""The style of a report's page: one column, tables that scroll, figures that shrink."""

from typing import Final

STYLE: Final = """
:root {
  color-scheme: light dark;
  --ink: #1c1c1c; --quiet: #5a5a5a; --paper: #ffffff; --rule: #dcdcdc;
  --shade: #f5f5f3; --link: #0b5394; --mark: #fdf0d5; --edge: #d55e00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e6e6e6; --quiet: #a8a8a8; --paper: #181818; --rule: #3a3a3a;
    --shade: #232323; --link: #8ab8e6; --mark: #3a2c12; --edge: #e08a45;
  }
  img { padding: 0.5rem; }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 48rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: break-word;
}
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 0.3rem; }
h2 { font-size: 1.25rem; margin: 0 0 0.9rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 0.5rem; }
section { border-top: 1px solid var(--rule); margin-top: 2.2rem; padding-top: 1.4rem; }
a { color: var(--link); }
.byline { color: var(--quiet); margin: 0 0 1rem; }
.partial { background: var(--mark); border-left: 4px solid var(--edge); padding: 0.6rem 0.9rem; }
.answer { font-size: 1.15rem; font-weight: 600; margin: 0 0 0.7rem; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: 0.25rem 1.1rem; padding: 0; }
nav ul, nav a { font-size: 0.93rem; }
.said { padding-left: 1.2rem; max-width: 44rem; }
.said li { margin-bottom: 0.4rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.93rem; }
caption { text-align: left; color: var(--quiet); padding-bottom: 0.4rem; }
th, td { padding: 0.25rem 0 0.25rem 1.4rem; text-align: right; vertical-align: baseline; }
td { white-space: nowrap; }
tr > :first-child { padding-left: 0; text-align: left; }
th[scope="row"] { font-weight: 400; }
th[scope="col"] { font-weight: 600; }
thead tr, tbody tr:last-child { border-bottom: 1px solid var(--rule); }
thead tr { border-top: 1px solid var(--rule); }
figure { margin: 1.4rem 0; }
img { display: block; max-width: 100%; height: auto; background: #ffffff; }
figcaption { color: var(--quiet); font-size: 0.9rem; margin-top: 0.4rem; max-width: 44rem; }
pre { background: var(--shade); padding: 0.6rem 0.8rem; font-size: 0.87rem; margin: 0 0 0.7rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
dl { margin: 0; font-size: 0.93rem; }
dl div { display: flex; gap: 0.8rem; padding: 0.1rem 0; }
dt { flex: 0 0 8rem; color: var(--quiet); }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
summary { cursor: pointer; }
@media (max-width: 34rem) {
  body { padding: 1.25rem 1rem 3rem; }
  h1 { font-size: 1.4rem; }
  th, td { padding-left: 0.7rem; }
  table { font-size: 0.85rem; }
  dt { flex-basis: 6rem; }
}
"""
