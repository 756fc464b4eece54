// State that the requests of one simulated resource share: its options, its deployments with their limits, its stores
// and the ephemeral keys it has issued.
import type { Clock } from '../clock.ts'
import type { Deployment } from './deployments.ts'
import { createObjectStore, type ObjectStore } from './objects.ts'
import { createResponseStore, type ResponseStore } from './responses.ts'
import { digest } from './text.ts'

/** What a resource is, as far as serving is concerned. */
export interface ServiceOptions {
  readonly name: string
  readonly keys: readonly string[]
  readonly clock: Clock
  readonly region?: string
  /** Whether an Entra access token is good here. */
  readonly acceptsToken?: (token: string) => boolean
  /** Before an answer; for a stream before its first output. */
  readonly firstDelayMs?: number
  readonly eventDelayMs?: number
  /** Words of an answer. */
  readonly deltas?: number
  readonly filter?: 'default' | 'async' | 'off'
  /** Texts that must not arrive here, such as the keys of the proxy's own clients. */
  readonly forbidden?: readonly string[]
  /** Takes the metadata that Codex puts into items, as OpenAI does; Azure was seen to refuse it. */
  readonly takesItemMetadata?: boolean
  /** How long a session of Responses over WebSocket lasts; an hour if left out. */
  readonly socketLifeMs?: number
}

/** Words of an answer, unless the options say otherwise. */
const DEFAULT_DELTAS = 12

export interface ResourceState {
  readonly options: ServiceOptions
  readonly deployments: readonly Deployment[]
  readonly store: ResponseStore
  readonly objects: ObjectStore
  readonly issuedKeys: Set<string>
  /** Words of an answer. */
  readonly deltas: number
  /** Requests so far; request ids are made of it. */
  served: number
}

/** The state of a resource that has served nothing yet. */
export function createResourceState(options: ServiceOptions, deployments: readonly Deployment[]): ResourceState {
  const secret = `secret of ${options.name}`
  return {
    options,
    deployments,
    store: createResponseStore(secret, options.takesItemMetadata === true),
    objects: createObjectStore(secret),
    issuedKeys: new Set(),
    deltas: options.deltas ?? DEFAULT_DELTAS,
    served: 0,
  }
}

/** The time of a reply, in whole seconds of the epoch. */
export function createdAt({ options }: ResourceState): number {
  return Math.floor(options.clock.epochMs() / 1000)
}

/** A new ephemeral key, which is good for Realtime from now on. */
export function issueKey({ options, issuedKeys }: ResourceState): string {
  const key = `ek_${digest(`${options.name} ${issuedKeys.size} ${options.clock.epochMs()}`, 40)}`
  issuedKeys.add(key)
  return key
}
