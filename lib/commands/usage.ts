// `--usage`: sums of the JSON log lines of files or standard input, by key, model, backend, day and month.
import fs from 'node:fs'
import type { Readable } from 'node:stream'
import { readLines } from '../usage/lines.ts'
import { printUsage, type UsageFormat } from '../usage/print.ts'
import { createUsageReport, type Dimension, MAX_GROUPS } from '../usage/report.ts'
import type { ExitCode } from './exit-code.ts'

export interface UsageOptions {
  /** Plain or gzipped; none, or `-`: standard input. */
  readonly files: readonly string[]
  readonly by: readonly Dimension[]
  readonly from: string | undefined
  readonly to: string | undefined
  readonly format: UsageFormat
}

function say(text: string): void {
  process.stderr.write(`azure-openai-proxy: ${text}\n`)
}

function open(file: string): Readable {
  return file === '-' ? process.stdin : fs.createReadStream(file)
}

/**
 * Prints the sums. 0 done, also with broken lines, which are counted on standard error; 1 when a file cannot be read.
 */
export async function usage({ files, by, from, to, format }: UsageOptions): Promise<ExitCode> {
  const report = createUsageReport({
    by,
    ...(from === undefined ? {} : { from }),
    ...(to === undefined ? {} : { to }),
  })
  let code: ExitCode = 0
  for (const file of files.length === 0 ? ['-'] : files) {
    try {
      await readLines(open(file), report.add)
    } catch (error) {
      const why = error instanceof Error ? error.message : 'unknown error'
      say(`${file === '-' ? 'standard input' : file} cannot be read: ${why}`)
      code = 1
    }
  }
  await new Promise<void>(resolve => process.stdout.write(printUsage(format, by, report.rows()), () => resolve()))
  const broken = report.broken()
  if (broken > 0)
    say(`${broken} line${broken === 1 ? ' is' : 's are'} no JSON log line, and left out (logging.format: json)`)
  const dropped = report.dropped()
  if (dropped > 0) {
    say(`${dropped} requests are left out: there are more than ${MAX_GROUPS} groups, choose a coarser --by`)
    code = 1
  }
  return code
}
