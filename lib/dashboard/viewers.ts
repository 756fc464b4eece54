// Viewers of the live status page: each is sent what is new every second. Their number is bounded, and none is waited
// for.
import type { ServerResponse } from 'node:http'
import type { Clock, Timer } from '../clock.ts'
import type { Sequenced } from './entries.ts'
import type { StatusSnapshot } from './status.ts'
import { viewOf } from './view.ts'

/** Streams open at once: a team around one fault, several tabs each. Each costs a snapshot a second. */
export const MAX_VIEWERS = 16
/** How often viewers are sent what is new. */
const TICK_MS = 1_000
/** Steps of history in a tick: what a viewer who missed a few ticks lacks. */
const TICK_STEPS = 3
/** Finished requests sent in one tick; more cannot be read. The rest is counted. */
const MAX_TOLD_REQUESTS = 50
/** Ticks that a viewer may fail to take before it is dropped: until then one event at most waits for it in memory. */
const VIEWER_PATIENCE_TICKS = 10
/** Processes whose place is remembered for a viewer; more than any machine has workers, restarts included. */
const MAX_SOURCES = 256
/** When a viewer who found no place may come back. */
export const FULL_WAIT_MS = 10_000

interface Viewer {
  readonly response: ServerResponse
  readonly mayStay: () => boolean
  /** The last request and the last change sent, by process. */
  readonly seenRequests: Map<string, number>
  readonly seenChanges: Map<string, number>
  ready: boolean
  missedTicks: number
}

function note(seen: Map<string, number>, source: string, seq: number): void {
  if (seq <= (seen.get(source) ?? 0)) return
  if (seen.size >= MAX_SOURCES && !seen.has(source)) {
    for (const oldest of seen.keys()) {
      seen.delete(oldest)
      break
    }
  }
  seen.set(source, seq)
}

function unseen<T extends Sequenced>(entries: readonly T[], seen: ReadonlyMap<string, number>): readonly T[] {
  return entries.filter(({ source, seq }) => seq > (seen.get(source) ?? 0))
}

function finishedSince(finished: StatusSnapshot['finished'], seen: ReadonlyMap<string, number>): number {
  let count = 0
  for (const [source, total] of Object.entries(finished)) count += Math.max(total - (seen.get(source) ?? 0), 0)
  return count
}

function eventText(event: string, data: unknown): string {
  return `event: ${event}\ndata: ${JSON.stringify(data)}\n\n`
}

function noteAll(viewer: Viewer, snapshot: StatusSnapshot): void {
  for (const [source, total] of Object.entries(snapshot.finished)) note(viewer.seenRequests, source, total)
  for (const { source, seq } of snapshot.changes) note(viewer.seenChanges, source, seq)
}

/** What one viewer has not been sent yet: a tick, the requests, the changes. */
function newsFor(viewer: Viewer, snapshot: StatusSnapshot, tick: string): string {
  let text = tick
  const count = finishedSince(snapshot.finished, viewer.seenRequests)
  if (count > 0) {
    const requests = unseen(snapshot.requests, viewer.seenRequests).slice(0, MAX_TOLD_REQUESTS)
    text += eventText('request', { requests, skipped: count - requests.length })
  }
  const changes = unseen(snapshot.changes, viewer.seenChanges)
  if (changes.length > 0) text += eventText('change', { changes })
  noteAll(viewer, snapshot)
  return text
}

function openViewer(response: ServerResponse, mayStay: () => boolean): Viewer {
  return { response, mayStay, seenRequests: new Map(), seenChanges: new Map(), ready: false, missedTicks: 0 }
}

/**
 * Sends one viewer a tick, if its connection takes it.
 * @returns `forbidden` when it may no longer watch, `too_slow` when its patience is used up
 */
function sendToViewer(viewer: Viewer, snapshot: StatusSnapshot, tick: string): 'stays' | 'forbidden' | 'too_slow' {
  if (!viewer.ready) return 'stays'
  if (!viewer.mayStay()) return 'forbidden'
  if (viewer.response.writableNeedDrain) {
    viewer.missedTicks++
    return viewer.missedTicks >= VIEWER_PATIENCE_TICKS ? 'too_slow' : 'stays'
  }
  viewer.missedTicks = 0
  viewer.response.write(newsFor(viewer, snapshot, tick))
  return 'stays'
}

export interface Viewers {
  hasPlace(): boolean
  /**
   * Sends to one more from now on, until it goes, is too slow, or may no longer see it.
   * @param response with its head sent
   * @param mayStay asked every tick: a reload may take the right away
   */
  add(response: ServerResponse, mayStay: () => boolean): Promise<void>
  /** Sends to all now, without waiting for the next tick. */
  sendNow(): Promise<void>
  count(): number
  /** Ends every stream. */
  close(): void
}

export interface ViewersOptions {
  readonly clock: Clock
  collect(): StatusSnapshot | Promise<StatusSnapshot>
}

export function createViewers({ clock, collect }: ViewersOptions): Viewers {
  const viewers = new Set<Viewer>()
  // There is a timer only while somebody watches.
  let timer: Timer | undefined
  let collecting = false

  const leave = (viewer: Viewer): void => {
    viewers.delete(viewer)
    if (viewers.size > 0) return
    timer?.cancel()
    timer = undefined
  }

  const end = (viewer: Viewer): void => {
    leave(viewer)
    viewer.response.end()
  }

  const drop = (viewer: Viewer): void => {
    leave(viewer)
    viewer.response.destroy()
  }

  const sendToAll = (snapshot: StatusSnapshot): void => {
    const tick = eventText('tick', viewOf(snapshot, TICK_STEPS))
    for (const viewer of viewers) {
      const result = sendToViewer(viewer, snapshot, tick)
      if (result === 'forbidden') end(viewer)
      else if (result === 'too_slow') drop(viewer)
    }
  }

  const sendNow = async (): Promise<void> => {
    // Slow to collect: ticks are left out, not queued.
    if (collecting || viewers.size === 0) return
    collecting = true
    try {
      sendToAll(await collect())
    } catch {
      // Viewers see by themselves that nothing new comes; the next tick tries again.
    } finally {
      collecting = false
    }
  }

  return {
    hasPlace: () => viewers.size < MAX_VIEWERS,
    sendNow,
    count: () => viewers.size,
    async add(response, mayStay) {
      const viewer = openViewer(response, mayStay)
      viewers.add(viewer)
      // Writing to one that has just gone is no fault; `close` follows.
      response.on('error', () => leave(viewer))
      response.on('close', () => leave(viewer))
      timer ??= clock.every(TICK_MS, () => void sendNow())
      try {
        const snapshot = await collect()
        if (!viewers.has(viewer)) return
        const { requests, changes } = snapshot
        response.write(eventText('snapshot', { ...viewOf(snapshot), requests, changes }))
        noteAll(viewer, snapshot)
        viewer.ready = true
      } catch {
        // Ended without a snapshot: the page says that the connection is lost, and tries again.
        drop(viewer)
      }
    },
    close() {
      for (const viewer of [...viewers]) end(viewer)
    },
  }
}
