// The model list of a resource, in Azure's form (azure/README.md 10.2).
import type { SimulatedResponse } from './chat.ts'
import type { Deployment } from './deployments.ts'
import { resourceNotFound } from './errors.ts'

/** All models, or the one with this id. */
export function modelList(deployments: readonly Deployment[], id: string | undefined): SimulatedResponse {
  const models = deployments.map(({ model, kind }) => ({
    id: model,
    object: 'model',
    status: 'succeeded',
    lifecycle_status: 'generally-available',
    created_at: 1_732_000_000,
    updated_at: 1_732_000_000,
    capabilities: {
      fine_tune: false,
      inference: true,
      completion: kind === 'completion',
      chat_completion: kind === 'chat',
      embeddings: kind === 'embeddings',
    },
    deprecation: { inference: 1_900_000_000 },
  }))
  const found = id === undefined ? { data: models, object: 'list' } : models.find(model => model.id === id)
  if (found === undefined) return { kind: 'answer', answer: resourceNotFound() }
  return {
    kind: 'answer',
    answer: { status: 200, headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(found) },
  }
}
