// What a log line looks like: JSON for machines, short text for people. One line an event; no secret and no body ever gets
// here, because nothing that holds one is passed in.
import type { Clock } from './clock.ts'

export type LogLevel = 'debug' | 'info' | 'warn' | 'error'

/** Flat and small: what stands in a line. Undefined fields are left out, null ones are shown. */
export type LogFields = Readonly<Record<string, string | number | boolean | null | undefined>>

export interface Log {
  debug(msg: string, fields?: LogFields): void
  info(msg: string, fields?: LogFields): void
  warn(msg: string, fields?: LogFields): void
  error(msg: string, fields?: LogFields): void
}

export interface LogOptions {
  readonly clock: Clock
  /** Asked for every line, so that a reload changes it. */
  readonly level: () => LogLevel
  readonly format: () => 'json' | 'text'
  readonly write: (line: string) => void
}

const RANK: Readonly<Record<LogLevel, number>> = { debug: 0, info: 1, warn: 2, error: 3 }

/** Control characters of a client's text must not become lines or terminal commands of their own. */
function plain(text: string): string {
  return text.replace(
    /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g,
    char => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}

function textValue(value: string | number | boolean | null): string {
  if (typeof value !== 'string') return String(value)
  return /^[\w./:@+-]+$/.test(value) ? value : plain(JSON.stringify(value))
}

function textLine(time: string, level: LogLevel, msg: string, fields: LogFields): string {
  const parts = [time.slice(11, 23), level.toUpperCase().padEnd(5), msg]
  for (const [name, value] of Object.entries(fields)) {
    if (value !== undefined && value !== null) parts.push(`${name}=${textValue(value)}`)
  }
  return parts.join(' ')
}

export function createLog({ clock, level, format, write }: LogOptions): Log {
  const line = (at: LogLevel, msg: string, fields: LogFields): void => {
    if (RANK[at] < RANK[level()]) return
    const time = new Date(clock.epochMs()).toISOString()
    write(format() === 'json' ? JSON.stringify({ time, level: at, msg, ...fields }) : textLine(time, at, msg, fields))
  }
  return {
    debug: (msg, fields = {}) => line('debug', msg, fields),
    info: (msg, fields = {}) => line('info', msg, fields),
    warn: (msg, fields = {}) => line('warn', msg, fields),
    error: (msg, fields = {}) => line('error', msg, fields),
  }
}
