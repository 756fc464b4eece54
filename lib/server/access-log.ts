// The line of every request (deploy/reference.md, "The log line").

import { type JoinFields, jsonNumber, jsonText, type Log } from '../log.ts'
import type { FinishedRequest } from '../request-context.ts'
import { isOwnRoute } from './own-routes.ts'

/** What a client was denied by us or by all backends is what an operator looks for. */
function levelOf(status: number, isWatching: boolean): 'debug' | 'info' | 'warn' {
  if (status >= 500) return 'warn'
  return isWatching && status < 400 ? 'debug' : 'info'
}

function text(value: string | undefined): string {
  return value === undefined ? 'null' : jsonText(value)
}

function figure(value: number | undefined): string {
  return value === undefined ? 'null' : jsonNumber(value)
}

/** Milliseconds with one decimal. */
function ms(value: number | undefined): string {
  return value === undefined ? 'null' : jsonNumber(Math.round(value * 10) / 10)
}

/** Names kept as JSON: keys, models and backends of the configs so far. */
const MAX_NAMES = 1_000

/** Names of configs as JSON, made once. */
function createNames(): (name: string | undefined) => string {
  const known = new Map<string, string>()
  return name => {
    if (name === undefined) return 'null'
    const found = known.get(name)
    if (found !== undefined) return found
    if (known.size >= MAX_NAMES) known.clear()
    const made = jsonText(name)
    known.set(name, made)
    return made
  }
}

/**
 * Joins the documented fields (deploy/reference.md, "The log line"), then those that only some requests have. One
 * template: by way of an object with 25 fields and their names it took twice the time.
 */
function fieldsJoiner(): JoinFields<FinishedRequest> {
  const named = createNames()
  return ({ id, method, path, client, traceparent, durationMs, cost, record }) => {
    const { key, model, backend, usage } = record
    let line = `,"id":${jsonText(id)},"key":${named(key)},"method":${text(method)},"path":${jsonText(path)},"model":${named(model)},"backend":${named(backend)},"status":${jsonNumber(record.status)},"attempts":${jsonNumber(record.attempts)},"duration_ms":${ms(durationMs)},"ttfb_ms":${ms(record.ttfbMs)},"bytes_in":${jsonNumber(record.bytesIn)},"bytes_out":${jsonNumber(record.bytesOut)},"stream":${record.stream},"prompt_tokens":${figure(usage.promptTokens)},"completion_tokens":${figure(usage.completionTokens)},"cached_tokens":${figure(usage.cachedTokens)},"cost":${figure(cost)},"client":${text(client)},"error":${text(record.error)}`
    if (record.madeBy !== undefined) line += `,"made_by":${jsonText(record.madeBy)}`
    if (record.servedByLowerTier) line += ',"spilled":true'
    if (record.azureSpillover !== undefined) line += `,"spilled_over":${jsonText(record.azureSpillover)}`
    if (record.upstreamId !== undefined) line += `,"upstream_id":${jsonText(record.upstreamId)}`
    if (traceparent !== undefined) line += `,"traceparent":${jsonText(traceparent)}`
    return line
  }
}

/** Step 12 of a request (lib/README.md): one line, in the log that is given. */
export function createAccessLog(log: Log): (finished: FinishedRequest) => void {
  const join = fieldsJoiner()
  return finished => {
    const { method, path, record } = finished
    // Probes and scrapers would fill the log: a Kubernetes pod's alone write 26,000 lines a day. They name no model.
    const isWatching = record.model === undefined && (method === 'GET' || method === 'HEAD') && isOwnRoute(path)
    log.joined(levelOf(record.status, isWatching), 'request', join, finished)
  }
}
