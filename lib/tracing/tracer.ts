// Traces of requests: begun under the caller's `traceparent`, one span an attempt, exported when the request has ended.
import type { Exchange as HttpExchange } from '../azure/entra-http.ts'
import type { Clock, Random } from '../clock.ts'
import type { TracingConfig } from '../config/types.ts'
import type { Log } from '../log.ts'
import type { FinishedRequest, RequestTrace } from '../request-context.ts'
import { createSpanExporter } from './exporter.ts'
import { spansOf } from './spans.ts'
import { beginAttempt, beginTrace, type Trace } from './trace-context.ts'

/** One export, connecting included; a collector is near. */
const EXPORT_MS = 5_000
const CONNECT_MS = 2_000
/** At the end: how long the last spans may take. */
export const LAST_EXPORT_MS = 1_000

export interface Tracer {
  /** @param header the caller's `traceparent`; undefined result: not traced */
  begin(header: string | undefined): RequestTrace | undefined
  finished(request: FinishedRequest, trace: RequestTrace | undefined): void
  /** Sends what waits, for a second at most, and ends. */
  close(): Promise<void>
}

export interface TracerOptions {
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly version: string
  /** Asked each time: a reload may change it. */
  settings(): TracingConfig
  readonly exchange: HttpExchange
}

class ActiveTrace implements RequestTrace {
  readonly trace: Trace
  private readonly clock: Clock
  private readonly random: Random

  constructor(trace: Trace, { clock, random }: Pick<TracerOptions, 'clock' | 'random'>) {
    this.trace = trace
    this.clock = clock
    this.random = random
  }

  attemptBegins(backend: string): string {
    return beginAttempt(this.trace, backend, { random: this.random, epochMs: this.clock.epochMs() })
  }

  attemptEnds(backend: string, label: string, detail: string): void {
    const attempt = this.trace.attempts.findLast(each => each.backend === backend && each.label === undefined)
    if (attempt === undefined) return
    attempt.label = label
    attempt.detail = detail
    attempt.endedEpochMs = this.clock.epochMs()
  }
}

export function createTracer({ clock, random, log, version, settings, exchange }: TracerOptions): Tracer {
  const exporter = createSpanExporter({
    clock,
    version,
    async post(body) {
      const { url, headers } = settings()
      if (url === undefined) return undefined
      const own = Object.fromEntries(headers.map(({ name, value }) => [name, value.reveal()]))
      const request = {
        method: 'POST',
        url: new URL(url),
        headers: { 'content-type': 'application/json', ...own },
        body,
        connectMs: CONNECT_MS,
      } as const
      const result = await exchange(request, AbortSignal.timeout(EXPORT_MS))
      if (result.kind === 'lost') return result.code
      return result.response.status < 300 ? undefined : `the collector answers ${result.response.status}`
    },
    onProblem: (message, state) => log[state === 'failing' ? 'warn' : 'info'](message),
  })
  return {
    begin(header) {
      const { url, sample } = settings()
      if (url === undefined) return undefined
      const trace = beginTrace(header, { random, epochMs: clock.epochMs(), sample })
      return trace === undefined ? undefined : new ActiveTrace(trace, { clock, random })
    },
    finished(request, trace) {
      if (trace instanceof ActiveTrace) exporter.add(spansOf(request, trace.trace))
    },
    async close() {
      const late = new Promise<void>(resolve => clock.after(LAST_EXPORT_MS, resolve))
      await Promise.race([exporter.flush(), late])
      exporter.close()
    },
  }
}
