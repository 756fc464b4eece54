// The benchmark works: a brief run of it answers everything, byte for byte. How fast, no test says.
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'

const run = promisify(execFile)
const script = (name: string): string => fileURLToPath(new URL(`../bench/${name}`, import.meta.url))

interface Figures {
  readonly totals: { readonly requests: number; readonly errors: number; readonly problems: readonly string[] }
  readonly rows: readonly {
    readonly scenario: string
    readonly metric: string
    readonly medians: Readonly<Record<string, number>>
  }[]
}

t.test('a brief benchmark checks every byte of hundreds of answers and writes its figures', async t => {
  const out = join(t.testdir(), 'figures.json')
  const { stdout } = await run(process.execPath, [script('main.js')], {
    env: { ...process.env, BENCH_BRIEF: '1', OUT: out },
  })
  const { totals, rows }: Figures = JSON.parse(readFileSync(out, 'utf8'))

  t.same({ errors: totals.errors, problems: totals.problems }, { errors: 0, problems: [] })
  // Each of direct and proxy: 40 to warm up and 40 that count, of each kind; and 30 at a fixed rate.
  t.ok(totals.requests >= 2 * (4 * 40 + 30), `${totals.requests} answers`)
  const measured = rows.map(({ scenario, metric }) => `${scenario} ${metric}`)
  for (const name of ['A requests_per_s', 'A p50_us', 'E events_per_s', 'W two_workers_requests_per_s']) {
    t.ok(measured.includes(name), name)
  }
  for (const { scenario, metric, medians } of rows.filter(({ metric }) => metric.endsWith('per_s'))) {
    t.ok(Number(medians.direct) > 0 && Number(medians.proxy) > 0, `${scenario} ${metric} of direct and proxy`)
  }
  t.match(stdout, /proxy \/ nginx/, 'the table is printed')

  const compared = await run(process.execPath, [script('compare.js'), out, out])
  t.match(compared.stdout, /\+?0\.0 %/, 'two runs can be compared')
})
