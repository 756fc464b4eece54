// The Grafana dashboard and the alerts: every metric and label they name is one that the proxy has.
import fs from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { parse } from 'yaml'
import { createMetrics, type MetricName, renderMetrics } from '../../lib/metrics.ts'
import { ROOT } from '../fixtures/sources.ts'

const read = (file: string): string => fs.readFileSync(path.join(ROOT, file), 'utf8')

const text = renderMetrics(createMetrics().read())
/** Names as a query may use them: a histogram by its parts. */
const KNOWN = new Set(
  [...text.matchAll(/^# TYPE (\S+) (\S+)$/gm)].flatMap(([, name = '', type]) =>
    type === 'histogram' ? [`${name}_bucket`, `${name}_sum`, `${name}_count`] : [name],
  ),
)
const LABELS = new Set(['model', 'key', 'status', 'backend', 'outcome', 'kind', 'limit', 'le', 'instance'])

/** The metrics and labels that a PromQL expression names. */
function named(expression: string): { readonly metrics: readonly string[]; readonly labels: readonly string[] } {
  const bare = expression.replace(/"(?:[^"\\]|\\.)*"/g, '""')
  const metrics = [...bare.matchAll(/\b(?:proxy|process|nodejs)_\w+/g)].map(([name]) => name)
  const selected = [...bare.matchAll(/\{([^}]*)\}/g)].flatMap(([, inside = '']) =>
    [...inside.matchAll(/(\w+)\s*[=!]/g)].map(([, label = '']) => label),
  )
  const grouped = [...bare.matchAll(/\bby \(([^)]*)\)/g)].flatMap(([, inside = '']) => inside.split(/,\s*/))
  return { metrics, labels: [...selected, ...grouped] }
}

function checkExpression(test: Test, expression: string): void {
  const { metrics, labels } = named(expression)
  test.ok(metrics.length > 0, expression)
  test.same(
    metrics.filter(name => !KNOWN.has(name)),
    [],
  )
  test.same(
    labels.filter(label => !LABELS.has(label)),
    [],
  )
}

interface Panel {
  readonly id: number
  readonly title: string
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number }
  readonly targets: readonly { readonly expr: string }[]
}

t.test('the check knows a wrong name when it sees one', async t => {
  t.same(named('sum by (model) (rate(proxy_requests_totl{stat="x"}[5m]))'), {
    metrics: ['proxy_requests_totl'],
    labels: ['stat', 'model'],
  })
  t.notOk(KNOWN.has('proxy_requests_totl'))
  const name: MetricName = 'proxy_requests_total'
  t.ok(KNOWN.has(name))
})

t.test('the dashboard asks for what there is, and no panel covers another', async t => {
  const { panels }: { readonly panels: readonly Panel[] } = JSON.parse(read('deploy/grafana-dashboard.json'))
  t.equal(new Set(panels.map(({ id }) => id)).size, panels.length)
  const cells = new Set<string>()
  for (const { title, gridPos, targets } of panels) {
    for (const { expr } of targets) checkExpression(t, expr)
    for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++) {
      for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
        if (cells.has(`${x} ${y}`) || x >= 24) t.fail(`${title} covers another panel`)
        cells.add(`${x} ${y}`)
      }
    }
  }
})

t.test('three alerts, each with what a person on call needs', async t => {
  const file: {
    readonly groups: readonly {
      readonly rules: readonly {
        readonly alert: string
        readonly expr: string
        readonly for: string
        readonly annotations: { readonly summary: string; readonly description: string }
      }[]
    }[]
  } = parse(read('deploy/prometheus-rules.yaml'))
  const rules = file.groups.flatMap(group => group.rules)
  t.equal(new Set(rules.map(({ alert }) => alert)).size, 3)
  for (const { expr, annotations, for: pause } of rules) {
    checkExpression(t, expr)
    t.match(pause, /^\d+m$/)
    t.ok(annotations.summary !== '' && annotations.description.length > 80)
  }
})
