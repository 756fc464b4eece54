// `make bench-compare OLD=a.json NEW=b.json`: what changed between two runs of the benchmark.
import { readFileSync } from 'node:fs'
import { columns, type Row, shown } from './report.ts'

interface Run {
  readonly rows: readonly Row[]
}

function isRun(value: unknown): value is Run {
  return typeof value === 'object' && value !== null && 'rows' in value && Array.isArray(value.rows)
}

function readRun(file: string): Run {
  const value: unknown = JSON.parse(readFileSync(file, 'utf8'))
  if (!isRun(value)) throw new Error(`${file} was not written by the benchmark`)
  return value
}

function percent(before: number | undefined, after: number | undefined): string {
  if (before === undefined || after === undefined || before === 0) return ''
  const change = (after / before - 1) * 100
  return `${change > 0 ? '+' : ''}${change.toFixed(1)} %`
}

/**
 * The proxy's figures of two runs side by side. Where both have a ratio to a yardstick, its change counts: machines drift
 * from run to run, and the yardstick with them.
 */
export function comparison(before: Run, after: Run): string {
  const lines = after.rows.map(row => {
    const old = before.rows.find(({ scenario, metric }) => scenario === row.scenario && metric === row.metric)
    return [
      row.scenario,
      row.metric.replaceAll('_', ' '),
      shown(old?.medians.proxy),
      shown(row.medians.proxy),
      percent(old?.medians.proxy, row.medians.proxy),
      shown(old?.ratio),
      shown(row.ratio),
      percent(old?.ratio, row.ratio),
    ]
  })
  return columns([['', 'measure', 'proxy, old', 'new', 'change', 'ratio, old', 'new', 'change'], ...lines])
}

const [oldFile, newFile] = process.argv.slice(2)
if (!oldFile || !newFile) {
  process.stderr.write('Usage: make bench-compare OLD=a.json NEW=b.json\n')
  process.exitCode = 2
} else process.stdout.write(`${comparison(readRun(oldFile), readRun(newFile))}\n`)
