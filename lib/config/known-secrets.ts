// Tells a config's secrets from other text, so that one which a client put where it does not belong is not shown to
// anybody.
import { Secret, sha256 } from './secret.ts'
import type { Config } from './types.ts'

function* secretsIn(value: unknown): Generator<string> {
  if (value instanceof Secret) yield value.reveal()
  else if (typeof value === 'object' && value !== null && !Buffer.isBuffer(value)) {
    for (const item of Object.values(value)) yield* secretsIn(item)
  }
}

/**
 * Whether a text is a client's key or a credential of this config. Compared by digests, since nothing else is kept of a
 * client's key. So only a whole secret is found, not one in the midst of other text.
 */
export function knownSecrets(config: Config): (text: string) => boolean {
  const digests = new Set(config.auth.keys.map(({ digest }) => digest.toString('hex')))
  for (const secret of secretsIn(config.models)) digests.add(sha256(secret).toString('hex'))
  return text => digests.has(sha256(text).toString('hex'))
}
