// The command line: its flags, and what is wrong with one. Pure. Its help: main.ts.
import { parseArgs } from 'node:util'
import { nearest } from '../config/nearest.ts'
import { FORMATS, type UsageFormat } from '../usage/print.ts'
import { DIMENSIONS, type Dimension } from '../usage/report.ts'

const OPTIONS = {
  config: { type: 'string', short: 'c' },
  port: { type: 'string', short: 'p' },
  demo: { type: 'boolean' },
  tls: { type: 'boolean' },
  check: { type: 'boolean' },
  probe: { type: 'boolean' },
  json: { type: 'boolean' },
  health: { type: 'boolean' },
  'new-key': { type: 'string' },
  usage: { type: 'boolean' },
  by: { type: 'string' },
  from: { type: 'string' },
  to: { type: 'string' },
  format: { type: 'string' },
  version: { type: 'boolean', short: 'v' },
  help: { type: 'boolean', short: 'h' },
} as const

const COMMANDS = ['demo', 'check', 'probe', 'health', 'usage', 'new-key', 'version', 'help'] as const

/** Options that go with one command only. */
const BELONGS: Readonly<Record<string, (typeof COMMANDS)[number]>> = {
  json: 'probe',
  tls: 'demo',
  by: 'usage',
  from: 'usage',
  to: 'usage',
  format: 'usage',
}

export interface Flags {
  readonly config: string | undefined
  readonly port: number | undefined
  readonly command: 'serve' | (typeof COMMANDS)[number]
  /** What stands beside the flags: a URL of --health, files of --usage. */
  readonly rest: readonly string[]
  readonly json: boolean
  /** The demo by https, with a certificate of its own. */
  readonly tls: boolean
  readonly by: readonly Dimension[]
  readonly from: string | undefined
  readonly to: string | undefined
  readonly format: UsageFormat
  /** Of the key that --new-key makes. */
  readonly keyName: string
}

const DEFAULT_BY: readonly Dimension[] = ['key', 'model', 'month']

function parsePort(text: string | undefined): number | undefined | 'wrong' {
  if (text === undefined) return undefined
  const port = /^\d{1,5}$/.test(text) ? Number(text) : Number.NaN
  return port >= 0 && port <= 65_535 ? port : 'wrong'
}

/** @returns the dimensions in their order; undefined where one is unknown, named twice, or there is none */
function parseBy(text: string | undefined): readonly Dimension[] | undefined {
  if (text === undefined) return DEFAULT_BY
  const names = text.split(',').map(name => name.trim())
  const known = names.flatMap(name => DIMENSIONS.find(dimension => dimension === name) ?? [])
  return known.length === names.length && new Set(known).size === known.length ? known : undefined
}

function isDate(text: string): boolean {
  const epochMs = Date.parse(`${text}T00:00:00Z`)
  return /^\d{4}-\d\d-\d\d$/.test(text) && !Number.isNaN(epochMs) && new Date(epochMs).toISOString().startsWith(text)
}

function unknownOption(args: readonly string[]): string | undefined {
  const { tokens } = parseArgs({ args: [...args], options: OPTIONS, strict: false, tokens: true })
  for (const token of tokens) {
    if (token.kind !== 'option' || Object.hasOwn(OPTIONS, token.name)) continue
    const near = nearest(token.name, Object.keys(OPTIONS))
    return `there is no ${token.rawName}${near === undefined ? '' : `; did you mean --${near}?`}`
  }
  return undefined
}

function parseOptions(args: readonly string[]) {
  return parseArgs({ args: [...args], allowPositionals: true, strict: true, options: OPTIONS })
}

/** How many arguments may stand beside a command's flags. */
function maxRest(command: Flags['command']): number {
  return command === 'usage' ? Number.POSITIVE_INFINITY : command === 'health' ? 1 : 0
}

/**
 * Reads a command line.
 * @param argv without node and the script
 * @returns the flags, or what is wrong with them
 */
export function parseCommandLine(argv: readonly string[]): Flags | string {
  // `--health URL` and `--health=URL` both: util.parseArgs knows no optional values.
  const args = argv.flatMap(arg => {
    const [, name, value] = /^--(health|usage)=(.*)$/s.exec(arg) ?? []
    return name === undefined ? [arg] : [`--${name}`, value ?? '']
  })
  const unknown = unknownOption(args)
  if (unknown !== undefined) return unknown
  let parsed: ReturnType<typeof parseOptions>
  try {
    parsed = parseOptions(args)
  } catch (error) {
    return error instanceof Error ? error.message : 'the command line is wrong'
  }
  const { values, positionals } = parsed
  const asked = COMMANDS.filter(name => values[name] !== undefined && values[name] !== false)
  const commands = values.help === true ? asked.filter(name => name === 'help') : asked
  if (commands.length > 1) return `--${commands.join(' and --')} do not go together`
  const command: Flags['command'] = commands[0] ?? 'serve'
  const flags: Flags = {
    command,
    config: values.config,
    port: undefined,
    rest: positionals,
    json: values.json === true,
    tls: values.tls === true,
    by: DEFAULT_BY,
    from: values.from,
    to: values.to,
    format: 'table',
    keyName: values['new-key'] ?? '',
  }
  if (command === 'help') return flags
  const stray = positionals[maxRest(command)]
  if (stray !== undefined) {
    const hint = command === 'serve' && /\.ya?ml$/i.test(stray) ? `; did you mean --config ${stray}?` : ''
    return `unexpected argument ${JSON.stringify(stray)}${hint}`
  }
  for (const [name, owner] of Object.entries(BELONGS)) {
    if (Reflect.get(values, name) !== undefined && owner !== command) return `--${name} goes with --${owner}`
  }
  const port = parsePort(values.port)
  if (port === 'wrong') return `--port takes a whole number from 0 to 65535, not ${JSON.stringify(values.port)}`
  if (command === 'demo' && values.config !== undefined) return '--demo takes no --config: it brings its own'
  const by = parseBy(values.by)
  if (by === undefined) return `--by takes some of ${DIMENSIONS.join(',')}, each once, not ${JSON.stringify(values.by)}`
  for (const name of ['from', 'to'] as const) {
    const date = values[name]
    if (date !== undefined && !isDate(date))
      return `--${name} takes a date such as 2026-11-01, not ${JSON.stringify(date)}`
  }
  const format = FORMATS.find(known => known === (values.format ?? 'table'))
  if (format === undefined) return `--format takes ${FORMATS.join(', ')}, not ${JSON.stringify(values.format)}`
  return { ...flags, port, by, format }
}
