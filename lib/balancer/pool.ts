// A model's backends in their tiers, and what its requests share.
import type { ModelConfig } from '../config/types.ts'
import { changesMs } from './availability.ts'
import { isAvailable, isEjected, isEjectedOrOnTrial, takesWaiting, throttledForMs } from './health.ts'
import {
  isFull,
  type Member,
  type Picker,
  type PickerOptions,
  type PickerShared,
  type PoolOptions,
  RequestPicker,
} from './picker.ts'
import { RoundRobin, type Tiers } from './policies.ts'
import { PromptPlacement } from './prompt-placement.ts'

export type { Leased, Member, Picker, PickerOptions, PickResult, PoolOptions } from './picker.ts'

export interface Pool {
  readonly model: ModelConfig
  readonly members: readonly Member[]
  picker(options: PickerOptions): Picker
  /** A request of the model's former pool goes on with this one's members; where it was tried it is not tried again. */
  adopt(picker: Picker): void
  /** Members that are not out; throttled ones count as healthy. */
  counts(): { readonly healthy: number; readonly total: number }
  /** The members as waiting requests see them. */
  outlook(): Outlook
}

/** A pool's members as waiting requests see them. */
export interface Outlook {
  /** A letter for each: `o` takes one now, `b` is sound and has no room, `x` is out. */
  readonly letters: string
  /** Monotonic: when that may change by itself; Infinity: not before something happens. */
  readonly changesMs: number
  /** Monotonic: the soonest that a sound one can have room. */
  readonly roomMs: number
}

/** A 32-bit FNV-1a hash of a text's UTF-16 units: stable over processes, for rendezvous seeds. */
export function hashText(text: string): number {
  let hash = 0x811c9dc5
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193)
  return hash >>> 0
}

function tiersOf(members: readonly Member[]): Tiers<Member> {
  const byPriority = new Map<number, Member[]>()
  for (const member of members) {
    const tier = byPriority.get(member.backend.priority)
    if (tier === undefined) byPriority.set(member.backend.priority, [member])
    else tier.push(member)
  }
  return [...byPriority.entries()].sort(([a], [b]) => a - b).map(([, tier]) => tier)
}

function outlookOf(members: readonly Member[], nowMs: number): Outlook {
  let letters = ''
  let soonestMs = Number.POSITIVE_INFINITY
  let roomMs = Number.POSITIVE_INFINITY
  for (const member of members) {
    const { health } = member
    soonestMs = Math.min(soonestMs, changesMs(health, nowMs))
    if (isEjectedOrOnTrial(health, nowMs)) letters += 'x'
    else {
      const isOpen = isAvailable(health, nowMs) && !isFull(member) && takesWaiting(health, nowMs)
      letters += isOpen ? 'o' : 'b'
      roomMs = Math.min(roomMs, nowMs + throttledForMs(health, nowMs))
    }
  }
  return { letters, changesMs: soonestMs, roomMs }
}

/** Makes a model's pool. A reload makes a new one over the same health. */
export function createPool(options: PoolOptions): Pool {
  const { model, members, clock, warmPlaces } = options
  const turns = new RoundRobin<Member>()
  const shared: PickerShared = {
    options,
    tiers: tiersOf(members),
    placement: new PromptPlacement(clock, warmPlaces, hashText(model.name), turns),
    turns,
    requestsInFlight: 0,
    furtherTriesInFlight: 0,
  }
  return {
    model,
    members,
    picker: wanted => new RequestPicker(shared, wanted),
    adopt: picker => picker.moveTo(shared),
    counts() {
      const nowMs = clock.nowMs()
      return { healthy: members.filter(member => !isEjected(member.health, nowMs)).length, total: members.length }
    },
    outlook: () => outlookOf(members, clock.nowMs()),
  }
}
