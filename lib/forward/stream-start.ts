// The beginning of an event stream: held back, within limits, while another backend could still begin again unseen.
import { type Begun, type Done, type ReadDeps, readBody, served } from './body-reading.ts'
import { classifyStreamError, type Outcome, transportFailure } from './outcome.ts'
import { watchEventStream } from './sse-watcher.ts'
import type { AttemptPlan, HeldPiece } from './upstream.ts'

/** Limits on start-up events held back: `response.created` repeats instructions and tools. */
const HOLD_MAX_EVENTS = 64
const HOLD_MAX_BYTES = 4 * 1024 * 1024

const NO_OUTPUT = transportFailure('first_output_timeout', 'no output')

/**
 * Holds a stream's start-up events back until its first output, its end or an error shows whose it is; calls `done`
 * once.
 */
export function readStreamStart(plan: AttemptPlan, deps: ReadDeps, begun: Begun, done: Done): void {
  const { clock, deadlines } = deps
  const { source } = begun
  const { values } = begun.headers
  const watcher = watchEventStream(plan.dialect)
  const beganMs = clock.nowMs()
  const firstOutputDueMs = beganMs + plan.timeouts.firstOutputMs
  const held: HeldPiece[] = []
  let heldBytes = 0
  let holdOver = false
  let complete = false
  let over = false

  const accept = (): void => {
    over = true
    reader.stop()
    deadlines.remove(holdDeadline)
    if (!complete) source.pause()
    done(
      served({
        ...begun,
        body: { kind: 'events', held, watcher, complete, firstOutputDueMs, isRead: !plan.isCreate },
      }),
    )
  }
  const refuse = (outcome: Outcome): void => {
    over = true
    reader.stop()
    deadlines.remove(holdDeadline)
    source.destroy()
    done({ kind: 'no_response', outcome, values })
  }
  const decide = (): void => {
    const phase = watcher.phase()
    if (phase.kind === 'error') {
      const sent = { headers: plan.wire.headers, body: plan.body }
      const outcome = classifyStreamError(phase.error, values, clock.epochMs(), sent)
      if (outcome.kind === 'served') accept()
      else refuse(outcome)
    } else if (phase.kind === 'output' || watcher.ended()) accept()
    else if (watcher.events() >= HOLD_MAX_EVENTS || heldBytes > HOLD_MAX_BYTES) accept()
    // The hold is on start-up events and on the comments of a server that thinks: without any, nothing is kept from
    // anyone.
    else if (holdOver && watcher.blocks() > 0) accept()
  }
  const holdDeadline = deadlines.add(beganMs + plan.timeouts.streamHoldMs, () => {
    holdOver = true
    decide()
  })
  const reader = readBody(
    source,
    deps,
    { cancellation: plan.cancellation, idleMs: plan.timeouts.idleMs },
    {
      onData(chunk) {
        held.push({ chunk, wholeBytes: watcher.push(chunk) })
        heldBytes += chunk.length
        decide()
      },
      onEnd() {
        complete = true
        watcher.finish()
        decide()
        if (over) return
        // A resumed stream may have nothing left to bring.
        if (plan.dialect === 'opaque' || (!plan.isCreate && watcher.events() === 0)) accept()
        else refuse(transportFailure('connection_lost', 'stream ended before any output'))
      },
      onLost(outcome) {
        deadlines.remove(holdDeadline)
        done({ kind: 'no_response', outcome, values })
      },
    },
  )
  reader.limit(firstOutputDueMs, () => reader.lose(NO_OUTPUT))
}
