// `balance: prompt_cache`: a conversation keeps the backend whose cache is warm, unless that carries too much.
// A cold one goes where the hash of its prompt says, within the bound.
//
// The bound holds at once for what has no warm cache to lose, and for a prompt that many send at the same time.
// Independent conversations make the number in flight swing by its square root, even where they are spread evenly.
// Moving each that meets such a swing costs a cold prompt and gains nothing, since Azure counts tokens by
// the minute (azure/README.md 7.2). So a warm conversation obeys the bound on the load of the last minute instead.
import type { Clock } from '../clock.ts'
import { type Candidate, LOAD_BOUND, mix, promptCache, type RoundRobin, withinBound } from './policies.ts'
import type { Place, WarmPlaces } from './warm-places.ts'

/** Time constant of the average of requests in flight. */
const LOAD_AVERAGE_MS = 60_000
/** The average lags behind: stays are allowed up to a little below the bound, so that the load keeps within it. */
const STAY_BOUND = LOAD_BOUND - 0.05
/** What is beyond so many square roots of the number expected is no swing of independent requests but a burst. */
const SWING_ROOTS = 3

/** Requests in flight, averaged over the last minute. */
interface AverageLoad {
  value: number
  atMs: number
}

export interface Placed<T> {
  readonly member: T
  /** Its conversation's place; undefined: the prompt is too short to matter, or its backend is out for the moment. */
  readonly place: Place | undefined
}

/** How many independent requests may be in flight where so many are expected (the spread of a Poisson number). */
function withSwing(expected: number): number {
  return expected + SWING_ROOTS * Math.sqrt(expected)
}

/** One model's placement. Samples the load at each request, which sees the average over time (Wolff 1982, PASTA). */
export class PromptPlacement<T extends Candidate> {
  private readonly clock: Clock
  private readonly places: WarmPlaces
  /** Conversations are remembered by model: the same prompt may be sent to two. */
  private readonly modelSeed: number
  private readonly turns: RoundRobin<T>
  private readonly loads = new Map<T, AverageLoad>()

  constructor(clock: Clock, places: WarmPlaces, modelSeed: number, turns: RoundRobin<T>) {
    this.clock = clock
    this.places = places
    this.modelSeed = modelSeed
    this.turns = turns
  }

  /**
   * @param members those that may be chosen, of one tier
   * @param promptHash 32-bit hash of the conversation; undefined: nothing to cache, in turn within the bound
   */
  choose(members: readonly T[], promptHash: number | undefined): Placed<T> {
    this.sample(members)
    if (promptHash === undefined) {
      return { member: this.turns.next(members.filter(withinBound(members))), place: undefined }
    }
    const key = mix(promptHash, this.modelSeed)
    const known = this.places.of(key)
    if (known !== undefined) {
      const warm = members.find(({ hashSeed }) => hashSeed === known.seed)
      // Out, throttled or tried: the conversation comes back to it, as those that the hash sends there do.
      if (warm === undefined) return { member: promptCache(members, promptHash), place: undefined }
      if (withinBound(members)(warm) || (known.inFlight === 0 && this.mayStay(members, warm))) {
        return { member: warm, place: this.places.use(key, warm.hashSeed) }
      }
    }
    const member = promptCache(members, promptHash)
    return { member, place: this.places.use(key, member.hashSeed) }
  }

  private sample(members: readonly T[]): void {
    const nowMs = this.clock.nowMs()
    for (const member of members) {
      const load = this.loads.get(member)
      if (load === undefined) {
        this.loads.set(member, { value: member.inFlight, atMs: nowMs })
        continue
      }
      const kept = Math.exp((load.atMs - nowMs) / LOAD_AVERAGE_MS)
      load.value = load.value * kept + member.inFlight * (1 - kept)
      load.atMs = nowMs
    }
  }

  /** Whether what it has in flight beyond the bound is a swing around an average that keeps within it. */
  private mayStay(members: readonly T[], member: T): boolean {
    let inFlight = 0
    let average = 0
    let weights = 0
    for (const other of members) {
      weights += other.weight
      inFlight += other.inFlight
      average += this.loads.get(other)?.value ?? 0
    }
    if (inFlight > withSwing(average)) return false
    const share = member.weight / weights
    const load = this.loads.get(member)?.value ?? 0
    return load <= average * share * STAY_BOUND && member.inFlight <= withSwing(inFlight * share)
  }
}
