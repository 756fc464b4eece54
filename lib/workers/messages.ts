// Every message between the primary process and its workers, and what they carry. JSON: no undefined, no Infinity, no
// bytes.

import type { HealthSnapshot } from '../balancer/health.ts'
import type { Admission, KeyUsed } from '../balancer/key-limits.ts'
import type { WrongPart } from '../balancer/unsupported.ts'
import type { ClientKeyLimits } from '../config/types.ts'
import type { EgressChange } from '../http1/send.ts'
import type { LogFields, LogLevel } from '../log.ts'
import type { MetricsState } from '../metrics.ts'

/** The texts of the files a config was made of, by path: each worker serves what the primary has found sound. */
export type FileTexts = readonly (readonly [path: string, text: string])[]

/** One process's news. */
export type StateUpdate =
  /** A deployment's whole state, with its version. */
  | { readonly kind: 'health'; readonly state: HealthSnapshot }
  /** `resourceId` null: forgotten; `maker` null: not known. */
  | {
      readonly kind: 'owner'
      readonly id: string
      readonly resourceId: string | null
      readonly maker: string | null
    }
  /** A deployment was found not to offer something, or offers it after all: then the time has passed. */
  | {
      readonly kind: 'lack'
      readonly deployment: string
      readonly what: string
      readonly apiVersion: string
      readonly wrong: WrongPart
      /** Times in a row that it was refused before. */
      readonly times: number
      readonly untilEpochMs: number
    }
  /** A conversation's requests go to the backend of this seed (balancer/warm-places.ts). */
  | { readonly kind: 'place'; readonly key: number; readonly seed: number }

/** One process's figures, as JSON can carry them. */
export interface ProcessState {
  readonly metrics: MetricsState
  /** The status page's part (dashboard/status.ts); null: of processes that have ended, whose counters alone remain. */
  readonly status: unknown
}

/** A line of the log about a state that all processes know; several of them may see it change at once. */
export interface StateLine {
  readonly level: LogLevel
  readonly msg: string
  readonly fields: LogFields
  /** The thing whose state it is. */
  readonly topic: string
  readonly state: string
  /** How long it stays so by itself; left out: until another line. */
  readonly forMs?: number
}

/** A worker asks its primary. */
export type PrimaryCall =
  /** All processes' figures. */
  | { readonly kind: 'gather'; readonly question: number }
  | {
      readonly kind: 'admit'
      readonly question: number
      readonly name: string
      readonly limits: ClientKeyLimits
      readonly tokens: number
      /** By the wall clock, which all processes share. */
      readonly askedEpochMs: number
    }
  /** null: nobody counted. */
  | { readonly kind: 'settle'; readonly ticket: number; readonly tokens: number | null; readonly cost: number }
  /** What these keys have used now. */
  | { readonly kind: 'used'; readonly question: number; readonly names: readonly string[] }
  /** The admission came too late: its request was refused, and used nothing. */
  | { readonly kind: 'cancel'; readonly ticket: number }

export type PrimaryResult =
  | { readonly kind: 'gathered'; readonly question: number; readonly states: readonly ProcessState[] }
  | { readonly kind: 'admission'; readonly question: number; readonly admission: Admission }
  | { readonly kind: 'used'; readonly question: number; readonly used: Readonly<Record<string, KeyUsed>> }

export type FromWorker =
  /** The first: the worker's message handler is installed. */
  | { readonly kind: 'awake' }
  | { readonly kind: 'ready'; readonly port: number }
  /** The last: it ends by itself. */
  | { readonly kind: 'cannot_listen'; readonly message: string }
  | { readonly kind: 'share'; readonly items: readonly StateUpdate[] }
  /** An outbound proxy, which others may have seen fail too: the primary says it once. */
  | { readonly kind: 'egress'; readonly change: EgressChange }
  /** The primary logs it, unless another worker has said the same. */
  | { readonly kind: 'line'; readonly line: StateLine }
  /** `round`: the one asked for; null: unasked, so that little is lost with the worker. */
  | { readonly kind: 'counted'; readonly round: number | null; readonly state: ProcessState }
  | PrimaryCall

export type ToWorker =
  /**
   * The reply to `awake`: the config to begin with, and all that is known. The config is not read from the disk, where
   * a broken one may lie by now.
   */
  | { readonly kind: 'start'; readonly texts: FileTexts; readonly items: readonly StateUpdate[] }
  | { readonly kind: 'share'; readonly items: readonly StateUpdate[] }
  /** Probes run in one worker only. */
  | { readonly kind: 'lead' }
  | { readonly kind: 'reload'; readonly texts: FileTexts }
  /** A reload has failed, and this is its first problem: the config in force is the old one. */
  | { readonly kind: 'reload_failed'; readonly problem: string }
  /** The log file has been renamed. */
  | { readonly kind: 'reopen' }
  | { readonly kind: 'shutdown' }
  | { readonly kind: 'count'; readonly round: number }
  | PrimaryResult

/** Whether a message came from our own code: `cluster` sends some of its own. */
export function isMessage(value: unknown): value is FromWorker {
  return typeof value === 'object' && value !== null && 'kind' in value
}
