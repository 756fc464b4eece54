// The soak's far side, a process of its own: simulated Azure OpenAI resources that keep failing in every way they know.
import { systemClock } from '../../lib/clock.ts'
import {
  cutAfter,
  cutBytes,
  delay,
  endWithoutTerminal,
  errorEvent,
  type Fault,
  fail,
  filteredOutput,
  garbage,
  hangUp,
  headersThenSilence,
  merge,
  resetAfterHeaders,
  silence,
  staleSocket,
  throttleBy,
  trickle,
  wrongLength,
} from '../../lib/simulator/faults.ts'
import { createSimulatedResource } from '../../lib/simulator/resource.ts'
import { seededRandom } from '../fixtures/seeded-random.ts'

export const RESOURCES = ['north', 'west', 'east'] as const
export const RESOURCE_KEY = 'soak-azure-key'

/**
 * `rest`: close every connection and listen no more; `work`: listen (again, where it was before), and fail now and
 * then.
 */
export type ToBackends = { readonly kind: 'rest' } | { readonly kind: 'work'; readonly seed: number }

export type FromBackends =
  | { readonly kind: 'ready' }
  | { readonly kind: 'working'; readonly ports: readonly number[] }
  /** Meanwhile: what a careless proxy had sent, and requests that were open when it closed. */
  | { readonly kind: 'resting'; readonly faults: number; readonly violations: readonly string[] }

/** One request of many meets a fault; all others show that the service goes on. */
const FAULT_EVERY_MS = 40
const EVENT_DELAY_MS = 2

const FAULTS: readonly Fault[] = [
  throttleBy({ kind: 'ms', ms: 200 }),
  fail(500),
  fail(502, 'html'),
  fail(503, 'empty'),
  hangUp(),
  silence(),
  headersThenSilence(),
  resetAfterHeaders(),
  cutAfter(3),
  cutAfter(3, true),
  cutBytes(40),
  endWithoutTerminal(4),
  trickle(7),
  merge(),
  wrongLength(5),
  garbage(),
  errorEvent('chat', 1),
  errorEvent('nested_throttle', 1),
  errorEvent('chat', 6),
  staleSocket(),
  filteredOutput(),
  delay(150),
]

function run(tell: (message: FromBackends) => void): void {
  const resources = RESOURCES.map(name =>
    createSimulatedResource({
      name,
      keys: [RESOURCE_KEY],
      deployments: [
        { name: 'gpt-4o', kind: 'chat' },
        { name: 'embed', kind: 'embeddings' },
      ],
      clock: systemClock(),
      deltas: 20,
      eventDelayMs: EVENT_DELAY_MS,
    }),
  )
  let ports: readonly number[] = []
  let failing: NodeJS.Timeout | undefined
  let faults = 0

  const work = async (seed: number): Promise<void> => {
    const random = seededRandom(seed)
    ports = await Promise.all(resources.map(async (resource, i) => (await resource.listen(ports[i] ?? 0)).port))
    faults = 0
    failing = setInterval(() => {
      const fault = FAULTS[Math.floor(random() * FAULTS.length)]
      if (fault === undefined) return
      faults++
      resources[Math.floor(random() * resources.length)]?.next(fault)
    }, FAULT_EVERY_MS)
    tell({ kind: 'working', ports })
  }
  const rest = async (): Promise<void> => {
    clearInterval(failing)
    for (const resource of resources) resource.clear()
    await Promise.all(resources.map(resource => resource.close()))
    tell({ kind: 'resting', faults, violations: resources.flatMap(resource => resource.violations.slice(0, 3)) })
  }
  process.on('message', (message: ToBackends) => {
    const done = message.kind === 'rest' ? rest() : work(message.seed)
    done.catch(error => {
      console.error(error)
      process.exit(1)
    })
  })
  tell({ kind: 'ready' })
}

if (process.send !== undefined) {
  process.on('disconnect', () => process.exit())
  run(message => process.send?.(message))
}
