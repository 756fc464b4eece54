// The live status page's look: dense as a load balancer's page, quiet until something is wrong. Every pair of colours has a
// contrast of at least 4.5 (text) or 3 (shapes), in light and in dark.

export const DASHBOARD_STYLE = `
:root {
  color-scheme: light dark;
  --page: #f5f6f8; --card: #ffffff; --sunk: #eef0f4; --line: #d9dde5; --line-soft: #e9ecf1; --edge: #7d8798;
  --ink: #161b24; --soft: #566070;
  --good: #116b35; --good-tint: #e7f5ec;
  --warn: #8a5300; --warn-tint: #fff4de;
  --bad: #b3181f; --bad-tint: #fdecec;
  --hand: #6b2fb3; --hand-tint: #f4ecfd;
  --tell: #0b5cad; --tell-tint: #e8f1fb;
  --chart: #5b8bc4; --chart-tint: #dbe7f5; --focus: #0b5cad;
  --shadow: 0 1px 2px rgb(16 24 40 / .06);
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0e1116; --card: #161b22; --sunk: #1d232c; --line: #2d3540; --line-soft: #232a34; --edge: #768293;
    --ink: #e7ebf1; --soft: #9ba7b6;
    --good: #56cf83; --good-tint: #12291c;
    --warn: #f0b44c; --warn-tint: #33270f;
    --bad: #ff8b85; --bad-tint: #3a1a1c;
    --hand: #c9a2ff; --hand-tint: #2a1e3f;
    --tell: #7db7f5; --tell-tint: #14263a;
    --chart: #5d92d0; --chart-tint: #1d3048; --focus: #7db7f5;
    --shadow: none;
  }
}
* { box-sizing: border-box; }
[hidden] { display: none !important; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 14px/1.4 -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "Liberation Sans", "PingFang SC",
    "Microsoft YaHei", "Noto Sans CJK SC", system-ui, sans-serif;
  font-variant-numeric: tabular-nums; -webkit-text-size-adjust: 100%;
}
h1, h2, p, ul, ol, dl, dd { margin: 0; padding: 0; }
ul, ol { list-style: none; }
:focus-visible { outline: 2px solid var(--focus); outline-offset: 2px; }
main:focus { outline: none; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.skip { position: absolute; left: 12px; top: -60px; background: var(--card); color: var(--tell); padding: 8px 12px; z-index: 9; }
.skip:focus { top: 6px; }

.top {
  display: flex; align-items: center; gap: 12px; padding: 0 20px; min-height: 48px;
  background: var(--card); border-bottom: 1px solid var(--line);
}
.brand { display: flex; align-items: center; gap: 9px; font-weight: 650; letter-spacing: -.005em; }
.brand svg { width: 20px; height: 20px; color: var(--tell); }
.link { margin-left: auto; display: flex; align-items: center; gap: 7px; color: var(--soft); font-size: 13px; }
.link i { width: 8px; height: 8px; border-radius: 50%; background: var(--edge); flex: none; }
.link[data-link="live"] i { background: var(--good); animation: breathe 2.4s ease-in-out infinite; }
.link[data-link="late"] { color: var(--warn); font-weight: 600; }
.link[data-link="late"] i { background: var(--warn); border-radius: 1px; }
.link[data-link="lost"] { color: var(--bad); font-weight: 600; }
.link[data-link="lost"] i { background: var(--bad); border-radius: 1px; }
@keyframes breathe { 50% { opacity: .35; } }

button, select, input { font: inherit; color: inherit; }
button {
  border: 1px solid var(--edge); border-radius: 6px; background: var(--card); padding: 3px 10px; cursor: pointer;
  font-size: 13px; font-weight: 550; white-space: nowrap;
}
button:hover { background: var(--sunk); }
button[aria-disabled="true"] { opacity: .38; cursor: default; background: none; border-color: var(--line); }
button[aria-pressed="true"] { background: var(--tell-tint); border-color: var(--tell); color: var(--tell); }
button.main { background: var(--tell); border-color: var(--tell); color: var(--card); padding: 7px 16px; }
button.danger { background: var(--bad); border-color: var(--bad); color: var(--card); }
select, input {
  border: 1px solid var(--edge); border-radius: 6px; background: var(--card); padding: 3px 6px; font-size: 13px; max-width: 200px;
}

main { padding: 16px 20px 32px; max-width: 1760px; margin: 0 auto; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; box-shadow: var(--shadow); }
.stale { opacity: .62; filter: saturate(.55); }

#login { max-width: 420px; margin: 9vh auto; padding: 26px 28px 28px; }
#login h1 { font-size: 20px; letter-spacing: -.01em; }
#login label { display: block; font-weight: 600; margin: 18px 0 5px; }
#login input { width: 100%; max-width: none; padding: 8px 10px; font-size: 15px; }
#login .help { color: var(--soft); font-size: 13px; margin: 7px 0 18px; }
.problem { color: var(--bad); background: var(--bad-tint); border-radius: 6px; padding: 8px 11px; margin: 14px 0 0; font-weight: 550; }

#summary { padding: 14px 18px; border-left: 5px solid var(--edge); margin-bottom: 14px; }
#summary h1 { display: flex; align-items: center; gap: 10px; font-size: 21px; line-height: 1.25; letter-spacing: -.012em; }
#summary h1 svg { width: 22px; height: 22px; flex: none; }
#summary[data-tone="good"] { border-left-color: var(--good); }
#summary[data-tone="good"] h1 svg { color: var(--good); }
#summary[data-tone="warn"] { border-left-color: var(--warn); background: var(--warn-tint); }
#summary[data-tone="warn"] h1 svg { color: var(--warn); }
#summary[data-tone="bad"] { border-left-color: var(--bad); background: var(--bad-tint); }
#summary[data-tone="bad"] h1 { color: var(--bad); }
#outs { margin-top: 8px; display: grid; gap: 4px; font-size: 15px; }
#outs:empty { display: none; }
#outs li { overflow-wrap: anywhere; display: flex; gap: 10px; align-items: baseline; }
#outs svg { width: 15px; height: 15px; margin: 0 3px 0 4px; flex: none; color: var(--tone); transform: translateY(2px); }
#outs b { font-weight: 650; }
#outs time { font-weight: 650; }
[data-state="healthy"] { --tone: var(--good); --tint: var(--card); }
[data-state="throttled"] { --tone: var(--warn); --tint: var(--warn-tint); }
[data-state="ejected"] { --tone: var(--bad); --tint: var(--bad-tint); }
[data-state="hand"] { --tone: var(--hand); --tint: var(--hand-tint); }
[data-state="trial"] { --tone: var(--tell); --tint: var(--tell-tint); }
`

export const DASHBOARD_STYLE_TABLES = `
.totals { display: grid; grid-template-columns: 1fr .8fr .7fr 1.15fr 1fr .8fr; margin-bottom: 14px; overflow: hidden; }
.totals > div { padding: 10px 16px 11px; border-left: 1px solid var(--line-soft); position: relative; }
.totals > div:first-child { border-left: 0; }
.totals dt { color: var(--soft); font-size: 12px; }
.totals dd { font-size: 20px; font-weight: 620; letter-spacing: -.01em; line-height: 1.3; }
.totals dd.over { color: var(--soft); font-size: 11.5px; font-weight: 400; letter-spacing: 0; }
.totals .spark { position: absolute; right: 12px; top: 12px; width: 84px; height: 30px; }

.head { display: flex; align-items: center; flex-wrap: wrap; gap: 8px 14px; padding: 10px 16px; border-bottom: 1px solid var(--line); }
.head h2 { font-size: 15px; letter-spacing: -.005em; }
.pick { display: flex; align-items: center; gap: 6px; }
.pick label { color: var(--soft); font-size: 12.5px; }
.head .end { margin-left: auto; display: flex; gap: 12px; align-items: center; }
.note { color: var(--soft); font-size: 12.5px; }
.scroll { overflow: auto; border-radius: 0 0 10px 10px; }
.scroll:focus-visible { outline-offset: -2px; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: 6px 10px; white-space: nowrap; vertical-align: middle; }
thead th {
  font-size: 12px; font-weight: 550; color: var(--soft); background: var(--card); border-bottom: 1px solid var(--line);
  position: sticky; top: 0; z-index: 1; line-height: 1.25;
}
thead th span { display: block; font-weight: 400; font-size: 11px; }
th.n, td.n { text-align: right; }
th:first-child, td:first-child { padding-left: 16px; }
th:last-child, td:last-child { padding-right: 16px; }

#backends-card { margin-bottom: 14px; }
#backends tbody tr > th.model { background: var(--sunk); font-weight: 650; padding-top: 5px; padding-bottom: 5px; border-top: 1px solid var(--line); }
#backends tbody:first-of-type th.model { border-top: 0; }
#backends th.model span:empty { display: none; }
#backends th.model span { font-weight: 400; color: var(--soft); margin-left: 10px; font-size: 12.5px; }
#backends th.model span.out { color: var(--bad); font-weight: 600; }
#backends th.model span.slow { color: var(--warn); font-weight: 600; }
#backends tr.row > * { border-top: 1px solid var(--line-soft); height: 46px; }
#backends tr.row > th { font-weight: 600; box-shadow: inset 4px 0 0 var(--tone, transparent); max-width: 200px; overflow: hidden; text-overflow: ellipsis; }
#backends tr.row { background: var(--tint); }
#backends tr > th:first-child { position: sticky; left: 0; background: inherit; z-index: 1; }
#backends thead tr > th:first-child { z-index: 2; background: var(--card); }
.state { display: flex; gap: 9px; align-items: center; min-width: 215px; }
.state svg { width: 17px; height: 17px; flex: none; color: var(--tone); }
.state b { color: var(--tone); font-weight: 650; }
.state .why { display: block; font-size: 12.5px; line-height: 1.3; max-width: 320px; white-space: pre-line; overflow-wrap: anywhere; }
.figure { display: flex; align-items: center; justify-content: flex-end; gap: 10px; }
.figure small, .sub { display: block; font-weight: 400; color: var(--soft); font-size: 11.5px; line-height: 1.2; }
.spark { width: 76px; height: 26px; flex: none; display: block; }
.spark .area { fill: var(--chart-tint); stroke: none; }
.spark .line { fill: none; stroke: var(--chart); stroke-width: 1.4; vector-effect: non-scaling-stroke; stroke-linejoin: round; }
.spark .errs { fill: var(--bad); stroke: none; }
.spark .base { stroke: var(--line); stroke-width: 1; vector-effect: non-scaling-stroke; }
td.hot { color: var(--bad); font-weight: 650; }
.room { display: grid; grid-template-columns: auto 46px 32px; gap: 1px 6px; align-items: center; font-size: 11.5px; color: var(--soft); }
.bar { height: 6px; border-radius: 3px; background: var(--line); overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--chart); border-radius: 3px; }
.bar.low i { background: var(--warn); }
.bar.none i { background: var(--bad); }
.room b { font-weight: 550; text-align: right; color: var(--ink); }
.acts { display: flex; gap: 6px; justify-content: flex-end; }

.split { display: grid; grid-template-columns: minmax(0, 1fr); gap: 14px; align-items: start; }
#requests-scroll { max-height: 560px; }
#changes-scroll { max-height: 190px; }
#requests th, #requests td { padding-left: 8px; padding-right: 8px; }
#requests th:first-child, #requests td:first-child { padding-left: 16px; }
#requests td { font-size: 13px; padding-top: 4px; padding-bottom: 4px; border-top: 1px solid var(--line-soft); }
#requests tbody tr:first-child td { border-top: 0; }
#requests td.wide { max-width: 220px; overflow: hidden; text-overflow: ellipsis; }
.code { display: inline-block; min-width: 36px; text-align: center; font-weight: 650; font-size: 12px; border-radius: 5px; padding: 1px 6px; background: var(--sunk); }
.code[data-class="2"] { color: var(--good); background: var(--good-tint); }
.code[data-class="4"] { color: var(--warn); background: var(--warn-tint); }
.code[data-class="5"], .code[data-class="0"] { color: var(--bad); background: var(--bad-tint); }
.mark { color: var(--warn); font-weight: 650; }
.err { color: var(--bad); }
.empty { padding: 22px 16px; color: var(--soft); }
#changes li { display: grid; grid-template-columns: auto 18px minmax(0, 1fr); gap: 8px; padding: 5px 16px; border-top: 1px solid var(--line-soft); font-size: 13px; }
#changes li:first-child { border-top: 0; }
#changes time { color: var(--soft); }
#changes svg { width: 15px; height: 15px; margin-top: 2px; color: var(--tone); }
#changes p { overflow-wrap: anywhere; }
#changes .sub { display: inline; margin-left: 8px; font-size: 12.5px; }

dialog { border: 1px solid var(--line); border-radius: 12px; background: var(--card); color: var(--ink); padding: 22px 24px; max-width: 460px; box-shadow: 0 12px 40px rgb(0 0 0 / .3); }
dialog::backdrop { background: rgb(10 14 20 / .5); }
dialog h2 { font-size: 17px; margin-bottom: 8px; overflow-wrap: anywhere; }
dialog p { overflow-wrap: anywhere; }
dialog .acts { margin-top: 20px; }
dialog button { padding: 6px 14px; }

@media (max-width: 1360px) { #backends .spark { width: 54px; } .acts button { padding: 3px 8px; } }
@media (min-width: 1640px) {
  .split { grid-template-columns: minmax(330px, 1fr) minmax(0, 2.7fr); }
  #changes-scroll { max-height: 560px; }
  #changes .sub { display: block; margin-left: 0; }
}
@media (max-width: 900px) {
  .totals { grid-template-columns: repeat(3, minmax(0, 1fr)); }
  .totals > div { border-top: 1px solid var(--line-soft); }
  .totals .spark { display: none; }
  main { padding: 12px; }
  .top { padding: 6px 12px; flex-wrap: wrap; }
}
@media (max-width: 520px) { .totals { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
@media (prefers-reduced-motion: reduce) { * { animation: none !important; transition: none !important; } }
@media (forced-colors: active) { .bar i { background: CanvasText; } .link i { forced-color-adjust: none; } }
`
