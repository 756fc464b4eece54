// Changes between two runs of the benchmark, and for better or worse where there is a goal.
import { goalOf, type Verdict, verdict } from './goals.ts'
import { columns, type Row, type Sample, shown, summarize, yardstickOf } from './report.ts'

function percent(before: number | undefined, after: number | undefined): string {
  if (before === undefined || after === undefined || before === 0) return ''
  const change = (after / before - 1) * 100
  return `${change > 0 ? '+' : ''}${change.toFixed(1)} %`
}

/** A change below this share is what two runs of the same program differ by. */
const NOISE_SHARE = 0.03

/** @param upIsBetter what a larger figure means */
function tendency(before: number | undefined, after: number | undefined, upIsBetter: boolean): string {
  if (before === undefined || after === undefined) return ''
  if (Math.abs(after - before) <= NOISE_SHARE * Math.abs(before)) return 'same'
  return after > before === upIsBetter ? 'better' : 'worse'
}

function verdicts(before: Verdict | undefined, after: Verdict | undefined): string {
  return before === after || before === undefined ? (after ?? '') : `${before} → ${after ?? 'not measured'}`
}

/**
 * The proxy's figures of two runs side by side. Where both have a ratio to a yardstick, its change counts: machines
 * drift from run to run, and the yardstick with them. Both runs are summarized here, by the same rules, whenever they
 * were written.
 */
export function comparison(before: readonly Sample[], after: readonly Sample[]): string {
  const oldRows = summarize(before)
  const lines = summarize(after).map((row: Row) => {
    const { scenario, metric, medians, ratios } = row
    const old = oldRows.find(each => each.scenario === scenario && each.metric === metric)
    const yardstick = yardstickOf(row)
    const goal = goalOf(scenario, metric)
    const [was, is] =
      goal?.aims[0].against === undefined
        ? [old?.medians.proxy, medians.proxy]
        : [old?.ratios[yardstick], ratios[yardstick]]
    return [
      scenario,
      metric.replaceAll('_', ' '),
      shown(old?.medians.proxy),
      shown(medians.proxy),
      percent(old?.medians.proxy, medians.proxy),
      shown(old?.ratios[yardstick]),
      shown(ratios[yardstick]),
      percent(old?.ratios[yardstick], ratios[yardstick]),
      goal === undefined ? '' : tendency(was, is, goal.limit === 'at least'),
      goal === undefined ? '' : verdicts(old === undefined ? undefined : verdict(goal, old), verdict(goal, row)),
    ]
  })
  const head = ['', 'measure', 'proxy, old', 'new', 'change', 'ratio, old', 'new', 'change', '', 'goal']
  return columns([head, ...lines])
}
