// Stored responses, items and conversations belong to the name of the key that made them. For every other key they are
// not there.
import type { Refusal } from '../errors.ts'
import type { Exchange } from '../request-context.ts'
import type { Runtime } from '../runtime.ts'

/** The maker that state made by this request gets; undefined: with authentication off nothing belongs to anybody. */
export function makerFor(exchange: Exchange): string | undefined {
  return exchange.clientKey?.name
}

/** Whether stored state of another key's can be met at all: where it cannot, nobody need look for it in a body. */
export function mayMeetForeignState(exchange: Exchange, { config, shared }: Runtime): boolean {
  const name = makerFor(exchange)
  return name !== undefined && !config.auth.sharedResponses && !shared.owners.isOnlyMaker(name)
}

/**
 * Refuses stored state that a key of another name is known to have made. Unknown makers pass, since after a restart
 * nobody's is known. The log line of a refused request names both keys; the client does not learn that there was
 * anything.
 * @param ids of responses, items or conversations that the request names
 * @param param the request's field that names them; undefined: its path does
 * @returns undefined when the request may use all of them
 */
export function foreignStateRefusal(
  exchange: Exchange,
  ids: readonly string[],
  { config, shared }: Runtime,
  param?: string,
): Refusal | undefined {
  const name = makerFor(exchange)
  if (name === undefined || config.auth.sharedResponses) return undefined
  for (const id of ids) {
    const maker = shared.owners.makerOf(id)
    if (maker === undefined || maker === name) continue
    exchange.record.madeBy = maker
    return {
      status: 404,
      code: 'response_not_found',
      message: 'There is no stored response, item or conversation with this id.',
      ...(param === undefined ? {} : { param }),
    }
  }
  return undefined
}
