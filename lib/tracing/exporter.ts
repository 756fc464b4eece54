// Spans on their way to a collector: a bounded queue, a batch at a time, never in a request's way. A dead collector
// costs a timer.
import type { Clock, Timer } from '../clock.ts'
import { exportBody, type Span } from './spans.ts'

/** Spans waiting: a few seconds of a busy proxy, some 4 MB. What is beyond is dropped. */
export const MAX_QUEUED_SPANS = 4_096
/** Spans of one request to the collector. */
const MAX_BATCH_SPANS = 512
/** How long spans may wait for company. */
const GATHER_MS = 1_000
/** Pause after a failure: a collector that is gone need not be asked for each batch. */
const RETRY_MS = 10_000

export interface SpanExporter {
  add(spans: readonly Span[]): void
  /** Sends what waits; resolves when it is sent, or could not be. */
  flush(): Promise<void>
  dropped(): number
  close(): void
}

export interface SpanExporterOptions {
  readonly clock: Clock
  readonly version: string
  /** Sends a body; resolves with what went wrong, or undefined. Never rejects. */
  post(body: string): Promise<string | undefined>
  onProblem(message: string, state: 'failing' | 'recovered'): void
}

export function createSpanExporter({ clock, version, post, onProblem }: SpanExporterOptions): SpanExporter {
  let queue: Span[] = []
  let dropped = 0
  let timer: Timer | undefined
  let sending: Promise<void> | undefined
  let failing = false
  let closed = false

  const schedule = (delayMs: number): void => {
    if (closed || timer !== undefined || sending !== undefined || queue.length === 0) return
    timer = clock.after(delayMs, () => {
      timer = undefined
      void send()
    })
  }
  const sendOne = async (): Promise<void> => {
    const batch = queue.slice(0, MAX_BATCH_SPANS)
    queue = queue.slice(batch.length)
    const problem = await post(exportBody(batch, version))
    if (problem === undefined) {
      if (failing) onProblem('traces are exported again', 'recovered')
      failing = false
      return
    }
    // The batch is lost: kept, it would be older each time, and fill the queue.
    dropped += batch.length
    if (!failing) onProblem(`traces cannot be exported: ${problem}`, 'failing')
    failing = true
  }
  const send = (): Promise<void> => {
    sending ??= sendOne().finally(() => {
      sending = undefined
      schedule(failing ? RETRY_MS : queue.length >= MAX_BATCH_SPANS ? 0 : GATHER_MS)
    })
    return sending
  }

  return {
    add(spans) {
      if (queue.length + spans.length > MAX_QUEUED_SPANS) {
        dropped += spans.length
        return
      }
      queue.push(...spans)
      schedule(failing ? RETRY_MS : GATHER_MS)
    },
    async flush() {
      while (queue.length > 0 && !failing) await send()
      await sending
    },
    dropped: () => dropped,
    close() {
      closed = true
      timer?.cancel()
      timer = undefined
    },
  }
}
