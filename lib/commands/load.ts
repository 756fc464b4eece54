// Loads the config for a command, or says on standard error what is wrong with it.
import { formatProblem, type LoadResult, loadConfig } from '../config/load.ts'

/** @returns the result when the config is sound; undefined when its problems have been printed */
export function loadOrExplain(file: string): (LoadResult & { kind: 'ok' }) | undefined {
  const result = loadConfig({ file, env: process.env })
  if (result.kind === 'ok') {
    for (const warning of result.warnings) process.stderr.write(`warning: ${formatProblem(warning)}\n`)
    return result
  }
  for (const problem of result.problems) process.stderr.write(`${formatProblem(problem)}\n`)
  return undefined
}
