// `--check`: is the config sound. Prints every problem with its place; asks no backend.
import type { ExitCode } from './exit-code.ts'
import { loadOrReport } from './load.ts'

/** `--check`: every problem of the config on standard error, or one line that says it is sound. 0 sound, 2 not. */
export function check(file: string): ExitCode {
  const loaded = loadOrReport(file)
  if (loaded === undefined) return 2
  const { models } = loaded.config
  const backends = models.reduce((sum, model) => sum + model.backends.length, 0)
  const count = (n: number, what: string): string => `${n} ${what}${n === 1 ? '' : 's'}`
  process.stdout.write(`${file}: ok, ${count(models.length, 'model')}, ${count(backends, 'backend')}\n`)
  return 0
}
