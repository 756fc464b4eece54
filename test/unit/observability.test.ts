// The Grafana dashboard and the Prometheus rules name what GET /metrics says, and nothing else.
import t from 'tap'
import { parse } from 'yaml'
import { createMetrics, type MetricsState, renderMetrics } from '../../lib/metrics.ts'
import { at, items, read } from '../fixtures/deploy-files.ts'
import { mistakesIn, namesIn } from '../fixtures/promql.ts'

/** Every series of the metrics text with its labels. Each family is given one series, so that its labels show. */
function seriesOfMetricsText(): ReadonlyMap<string, ReadonlySet<string>> {
  const bare = renderMetrics(createMetrics().read())
  const helped = [...bare.matchAll(/^# HELP (\w+) /gm)].map(match => match[1] ?? '')
  const histograms = new Set([...bare.matchAll(/^# TYPE (\w+) histogram$/gm)].map(match => match[1] ?? ''))
  const state: MetricsState = Object.fromEntries(helped.map(name => [name, { '': histograms.has(name) ? [] : 1 }]))
  const known = new Map<string, ReadonlySet<string>>()
  for (const [, name = '', braces = ''] of renderMetrics(state).matchAll(/^(\w+)(?:\{(.*)\})? \S+$/gm)) {
    const own = [...braces.matchAll(/(\w+)="/g)].map(match => match[1] ?? '')
    // Prometheus adds these two to whatever it scrapes.
    known.set(name, new Set([...own, 'job', 'instance']))
  }
  return known
}

const known = seriesOfMetricsText()
const dashboard: unknown = JSON.parse(read('deploy/grafana-dashboard.json'))
const panels = items(at(dashboard, 'panels'))
const variables = items(at(dashboard, 'templating', 'list'))
const rules = items(at(parse(read('deploy/prometheus-rules.yaml')), 'groups')).flatMap(group =>
  items(at(group, 'rules')),
)

const text = (node: unknown, ...keys: readonly (string | number)[]): string => String(at(node, ...keys) ?? '')
const titleOf = (panel: unknown): string => text(panel, 'title')

/** Each query of the dashboard with the panel it is drawn in. */
const queries = panels.flatMap(panel =>
  items(at(panel, 'targets')).map(target => ({ panel: titleOf(panel), target, expr: text(target, 'expr') })),
)

t.test('the metrics text gives series and labels to compare with', async t => {
  t.same([...(known.get('proxy_requests_total') ?? [])], ['model', 'key', 'status', 'job', 'instance'])
  t.same([...(known.get('proxy_time_to_first_byte_seconds_bucket') ?? [])], ['model', 'le', 'job', 'instance'])
  t.notOk(known.has('proxy_time_to_first_byte_seconds'), 'a histogram has no series of its bare name')
  t.same([...(known.get('proxy_workers') ?? ['missing'])], ['job', 'instance'])
})

t.test('an expression that names what is not there is noticed', async t => {
  const wrong = [
    ['rate(proxy_request_total[5m])', 'no series proxy_request_total'],
    ['proxy_requests_total{backend="a"}', 'proxy_requests_total has no label backend'],
    ['proxy_workers and sum by (model) (proxy_open_streams)', 'proxy_open_streams has no label model'],
    ['sum(proxy_backend_up) by (tier)', 'proxy_backend_up has no label tier'],
    ['proxy_backend_up * on (model, zone) proxy_backend_throttled', 'proxy_backend_throttled has no label zone'],
    ['label_values(proxy_backend_up, status)', 'proxy_backend_up has no label status'],
    ['summ(proxy_workers)', 'not understood: summ'],
    ['proxy_workers ; 1', 'not understood: ;'],
    ['1 + 1', 'no series'],
  ] as const
  for (const [expression, mistake] of wrong) t.ok(mistakesIn(expression, known).includes(mistake), expression)
})

t.test('an expression is read as Prometheus reads it', async t => {
  const named = namesIn(
    '60 * sum by (key) (rate(a_total{model=~"$model|x{y}", kind="z"}[$__rate_interval])) or 0 * b{}',
  )
  t.same(named, {
    series: ['a_total', 'b'],
    matched: [
      { series: 'a_total', label: 'model' },
      { series: 'a_total', label: 'kind' },
    ],
    grouped: ['key'],
    variables: ['model', '__rate_interval'],
    strange: [],
  })
})

t.test('the dashboard asks only for series and labels that there are', async t => {
  t.ok(queries.length > 0)
  for (const { panel, expr } of queries) t.same(mistakesIn(expr, known), [], `${panel}: ${expr}`)
  const lists = variables.filter(variable => at(variable, 'type') === 'query')
  t.same(lists.map(variable => text(variable, 'name')).sort(), ['backend', 'instance', 'job', 'model'])
  for (const variable of lists) t.same(mistakesIn(text(variable, 'query', 'query'), known), [], text(variable, 'name'))
})

t.test('every figure of the metrics text is drawn', async t => {
  const drawn = new Set(queries.flatMap(({ expr }) => namesIn(expr).series))
  const shared = /_(?:sum|count)$/
  t.same(
    [...known.keys()].filter(name => !shared.test(name) && !drawn.has(name)),
    [],
  )
})

t.test('legends show only labels that their query keeps', async t => {
  for (const { panel, target, expr } of queries) {
    const shown = [...text(target, 'legendFormat').matchAll(/\{\{(\w+)\}\}/g)].map(match => match[1] ?? '')
    const kept = new Set(namesIn(expr).grouped)
    t.same(
      shown.filter(label => !kept.has(label)),
      [],
      panel,
    )
  }
})

t.test('every variable in use is defined, and every panel asks the chosen data source', async t => {
  const defined = new Set(variables.map(variable => text(variable, 'name')))
  const used = queries.flatMap(({ expr }) => namesIn(expr).variables).filter(name => !name.startsWith('__'))
  t.same(new Set(used), new Set(['model', 'backend', 'job', 'instance']))
  t.same(
    used.filter(name => !defined.has(name)),
    [],
  )
  t.ok(defined.has('datasource'))
  for (const { panel, target } of queries) t.equal(text(target, 'datasource', 'uid'), '$' + '{datasource}', panel)
})

t.test('panels have ids of their own', async t => {
  const ids = panels.map(panel => at(panel, 'id'))
  t.ok(ids.every(id => Number.isInteger(id)))
  t.equal(new Set(ids).size, panels.length)
  t.equal(new Set(panels.map(titleOf)).size, panels.length, 'and titles')
})

interface Place {
  readonly title: string
  readonly x: number
  readonly y: number
  readonly w: number
  readonly h: number
}

function placeOf(panel: unknown): Place {
  const figure = (key: string): number => Number(at(panel, 'gridPos', key))
  return { title: titleOf(panel), x: figure('x'), y: figure('y'), w: figure('w'), h: figure('h') }
}

t.test('no panel lies over another, and none leaves the grid of 24 columns', async t => {
  const places = panels.map(placeOf)
  for (const { title, x, y, w, h } of places) {
    t.ok(x >= 0 && y >= 0 && w > 0 && h > 0 && x + w <= 24, title)
  }
  const pairs = places.flatMap((a, i) => places.slice(i + 1).map(b => [a, b] as const))
  const over = pairs.filter(([a, b]) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h)
  t.same(
    over.map(([a, b]) => `${a.title} / ${b.title}`),
    [],
  )
})

t.test('the rules ask only for series and labels that there are', async t => {
  t.equal(rules.length, 12)
  for (const rule of rules) t.same(mistakesIn(text(rule, 'expr'), known), [], text(rule, 'alert'))
})

t.test('rules have names of their own, wait before they wake anybody, and say what to do', async t => {
  t.equal(new Set(rules.map(rule => text(rule, 'alert'))).size, rules.length)
  for (const rule of rules) {
    const name = text(rule, 'alert')
    t.match(text(rule, 'for'), /^\d+m$/, name)
    t.match(text(rule, 'labels', 'severity'), /^(?:warning|critical)$/, name)
    for (const key of ['summary', 'description', 'runbook'])
      t.ok(text(rule, 'annotations', key).length > 20, `${name}: ${key}`)
  }
})

t.test('what a rule says of its labels, its expression keeps', async t => {
  for (const rule of rules) {
    const said = Object.values(at(rule, 'annotations') ?? {}).join('\n')
    const shown = [...said.matchAll(/\$labels\.(\w+)/g)].map(match => match[1] ?? '')
    const kept = new Set(namesIn(text(rule, 'expr')).grouped)
    t.ok(shown.length > 0)
    t.same(
      shown.filter(label => !kept.has(label)),
      [],
      text(rule, 'alert'),
    )
  }
})
