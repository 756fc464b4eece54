// `make bench-compare OLD=a.json NEW=b.json`: reads what two runs have written, and prints what changed.
import { readFileSync } from 'node:fs'
import { comparison } from './comparison.ts'
import type { Sample } from './report.ts'

interface Run {
  readonly samples: readonly Sample[]
}

function isRun(value: unknown): value is Run {
  return typeof value === 'object' && value !== null && 'samples' in value && Array.isArray(value.samples)
}

function readSamples(file: string): readonly Sample[] {
  const value: unknown = JSON.parse(readFileSync(file, 'utf8'))
  if (!isRun(value)) throw new Error(`${file} was not written by the benchmark`)
  return value.samples
}

const [oldFile, newFile] = process.argv.slice(2)
if (!oldFile || !newFile) {
  process.stderr.write('Usage: make bench-compare OLD=a.json NEW=b.json\n')
  process.exitCode = 2
} else process.stdout.write(`${comparison(readSamples(oldFile), readSamples(newFile))}\n`)
