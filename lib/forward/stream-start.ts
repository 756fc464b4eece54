// The beginning of an event stream: held back, within limits, while another backend could still begin again unseen.

import { readLoneError } from '../azure/error-objects.ts'
import type { Sent } from '../azure/error-text.ts'
import { beginningOfAnswer } from './answer-beginning.ts'
import { type Begun, type Done, type ReadDeps, readBody, served } from './body-reading.ts'
import { classifyStreamError, type Outcome, pageOutcome, transportFailure } from './outcome.ts'
import { watchEventStream } from './sse-watcher.ts'
import type { AttemptPlan, HeldPiece } from './upstream.ts'

/** Limits on start-up events held back: `response.created` repeats instructions and tools. */
const HOLD_MAX_EVENTS = 64
const HOLD_MAX_BYTES = 4 * 1024 * 1024

const NOTHING_CAME = transportFailure('connection_lost', 'stream ended before any output')
const NO_OUTPUT = transportFailure('first_output_timeout', 'no output')

/** A body that was called a stream may be a page, or an error object that nobody has put into an event. */
function outcomeWithoutOutput(chunks: readonly Buffer[], begun: Begun, epochMs: number, sent: Sent): Outcome {
  if (beginningOfAnswer(chunks) === 'page') return pageOutcome(`${begun.status} HTML`)
  const error = readLoneError(Buffer.concat(chunks))
  return error === undefined ? NOTHING_CAME : classifyStreamError(error, begun.headers.values, epochMs, sent)
}

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
  const sent = { headers: plan.wire.headers, body: plan.body }
  const held: HeldPiece[] = []
  let heldBytes = 0
  let holdOver = false
  let complete = false
  let over = false

  const accept = (): void => {
    over = true
    reader.stop()
    deadlines.remove(holdDeadline)
    if (!complete) source.hold()
    const isRead = !plan.isCreate
    done(served(begun, { kind: 'events', held, watcher, complete, firstOutputDueMs, isRead }))
  }
  const refuse = (outcome: Outcome): void => {
    over = true
    reader.stop()
    deadlines.remove(holdDeadline)
    source.destroy()
    done({ kind: 'no_response', outcome, values })
  }
  const endWithoutOutput = (): void => {
    const chunks = held.map(({ chunk }) => chunk)
    const outcome = outcomeWithoutOutput(chunks, begun, clock.epochMs(), sent)
    if (outcome.kind !== 'served') return void refuse(outcome)
    deadlines.remove(holdDeadline)
    done(served(begun, { kind: 'whole', chunks, bytes: heldBytes }))
  }
  const decide = (): void => {
    const phase = watcher.phase()
    if (phase.kind === 'error') {
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
        else endWithoutOutput()
      },
      onLost(outcome) {
        deadlines.remove(holdDeadline)
        done({ kind: 'no_response', outcome, values })
      },
    },
  )
  reader.limit(firstOutputDueMs, () => reader.lose(NO_OUTPUT))
}
