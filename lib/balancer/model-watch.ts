// Models that still have a backend: this says that a model is down, and spares the last backend of one.
import type { BackendHealth } from './health-lease.ts'

/** A model has lost its last backend, or has one again. */
export type ModelChange =
  | { readonly kind: 'model_down'; readonly model: string }
  | { readonly kind: 'model_up'; readonly model: string }

/** A model and the deployments that it has. */
export interface ModelMembers {
  readonly name: string
  readonly members: readonly BackendHealth[]
}

export interface ModelWatch {
  set(models: readonly ModelMembers[]): void
  /** Whether a model would have nobody left without it. A throttled one is in. */
  isLastIn(health: BackendHealth): boolean
  /** A deployment went out or came back. @param aloud whether changes of the models concerned are reported */
  changed(aloud: boolean): void
}

/** Which models have lost their last backend. */
export function watchModels(emit: (change: ModelChange) => void): ModelWatch {
  let models: readonly ModelMembers[] = []
  let down: ReadonlySet<string> = new Set()
  const isIn = ({ state }: BackendHealth): boolean => state.phase.kind === 'in'
  const changed = (aloud: boolean): void => {
    const before = down
    down = new Set(models.filter(({ members }) => !members.some(isIn)).map(({ name }) => name))
    if (!aloud) return
    for (const name of down) if (!before.has(name)) emit({ kind: 'model_down', model: name })
    for (const name of before) if (!down.has(name)) emit({ kind: 'model_up', model: name })
  }
  return {
    set(next) {
      models = next
      changed(false)
    },
    isLastIn: health =>
      models.some(
        ({ members }) => members.includes(health) && members.every(other => other === health || !isIn(other)),
      ),
    changed,
  }
}
