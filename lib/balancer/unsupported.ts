// Features that single deployments turned out not to offer: an operation at an api_version, or the option that asks for
// usage in streams. Believed briefly at first, since gateways answer so while they restart; ended by one response.
import type { Clock } from '../clock.ts'

/** How long it is avoided the first, the second and every later time, in milliseconds. */
export const AVOIDED_MS = [10_000, 60_000, 600_000] as const
/** An option that a deployment has refused, which a second request without it has proved. */
export const OPTION_REFUSED_MS = 600_000
/** After so long without another refusal the next one counts as the first again. */
const FORGOTTEN_MS = 600_000
/** Deployments times operations; far above any config, and a bound all the same. */
const MAX_REMEMBERED = 10_000

/** What a deployment lacks: `images/edits`, `stream_options`; at which api_version. */
export interface Lack {
  readonly deployment: string
  readonly what: string
  readonly apiVersion: string
}

/** The part of a backend's URL that is probably wrong. */
export type WrongPart = 'version' | 'path'

/** A change for people. `forMs` 0: it was answered after all. */
export interface LackChange extends Lack {
  readonly forMs: number
  /** Times in a row that it was refused before. */
  readonly times: number
  readonly wrong: WrongPart
}

export interface KnownLack {
  readonly what: string
  readonly apiVersion: string
  readonly untilMs: number
  readonly wrong: WrongPart
}

export interface UnsupportedOperations {
  /** A deployment refused something. @param forMs how long to avoid it; left out: longer each time */
  note(lack: Lack, how?: { readonly forMs?: number; readonly wrong?: WrongPart }): void
  has(lack: Lack): boolean
  /** The deployment has answered: it offers this. */
  answered(lack: Lack): void
  /** Another process has found it out: it has said so itself. @param untilMs past: offered after all */
  adopt(lack: Lack, known: { readonly wrong: WrongPart; readonly times: number; readonly untilMs: number }): void
  /** What a deployment is avoided for now, for the status page. */
  of(deployment: string): readonly KnownLack[]
  onChange(listener: (change: LackChange) => void): void
}

interface Remembered {
  readonly lack: Lack
  readonly wrong: WrongPart
  readonly times: number
  readonly untilMs: number
}

function keyOf({ deployment, what, apiVersion }: Lack): string {
  return `${deployment}\n${what}\n${apiVersion}`
}

export function createUnsupportedOperations(clock: Clock): UnsupportedOperations {
  const remembered = new Map<string, Remembered>()
  const listeners: ((change: LackChange) => void)[] = []
  const emit = (lack: Lack, forMs: number, wrong: WrongPart, times = 0): void => {
    for (const listener of listeners) listener({ ...lack, forMs, wrong, times })
  }

  return {
    note(lack, { forMs, wrong = 'version' } = {}) {
      const key = keyOf(lack)
      const nowMs = clock.nowMs()
      const known = remembered.get(key)
      // Asked all the same because nobody else is there: it is known already.
      if (known !== undefined && known.untilMs > nowMs) return
      if (remembered.size >= MAX_REMEMBERED) remembered.clear()
      const times = known !== undefined && nowMs - known.untilMs < FORGOTTEN_MS ? known.times + 1 : 0
      const avoidedMs = forMs ?? AVOIDED_MS[Math.min(times, AVOIDED_MS.length - 1)] ?? OPTION_REFUSED_MS
      remembered.set(key, { lack, wrong, times, untilMs: nowMs + avoidedMs })
      emit(lack, avoidedMs, wrong, times)
    },
    has(lack) {
      if (remembered.size === 0) return false
      return (remembered.get(keyOf(lack))?.untilMs ?? 0) > clock.nowMs()
    },
    answered(lack) {
      const wrong = remembered.size > 0 ? remembered.get(keyOf(lack))?.wrong : undefined
      if (wrong !== undefined && remembered.delete(keyOf(lack))) emit(lack, 0, wrong)
    },
    adopt(lack, { wrong, times, untilMs }) {
      const key = keyOf(lack)
      if (untilMs <= clock.nowMs()) remembered.delete(key)
      else if (untilMs > (remembered.get(key)?.untilMs ?? 0)) {
        if (remembered.size >= MAX_REMEMBERED) remembered.clear()
        remembered.set(key, { lack, wrong, times, untilMs })
      }
    },
    of(deployment) {
      const nowMs = clock.nowMs()
      return [...remembered.values()]
        .filter(({ lack, untilMs }) => lack.deployment === deployment && untilMs > nowMs)
        .map(({ lack: { what, apiVersion }, untilMs, wrong }) => ({ what, apiVersion, untilMs, wrong }))
    },
    onChange(listener) {
      listeners.push(listener)
    },
  }
}
