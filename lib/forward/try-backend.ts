// One backend's turn in the retry loop: the request is sent, and once more to the same backend where its response asks
// for that.
import { isForeignState, readErrorBody } from '../azure/errors.ts'
import type { Leased, Member } from '../balancer/pool.ts'
import { type Lack, OPTION_REFUSED_MS, type UnsupportedOperations } from '../balancer/unsupported.ts'
import { STREAM_OPTIONS } from '../body/read.ts'
import type { Exchange } from '../request-context.ts'
import type { Outcome } from './outcome.ts'
import { pause } from './pause.ts'
import { type SendDeps, type SendHow, type SendResult, sendToBackend } from './send.ts'
import type { AttemptResult, ForwardRequest, UpstreamResponse } from './upstream.ts'

export interface TryBackendDeps extends SendDeps {
  readonly unsupported: UnsupportedOperations
}

/** What a backend's turn brought. */
export type BackendResult =
  | Exclude<SendResult, { kind: 'response' }>
  | (AttemptResult & {
      readonly kind: 'response'
      /** The last try asked for usage in the client's name: its event is taken out of the response again. */
      readonly asksUsage: boolean
    })

/** Headers of a client that name an organisation or a deployment: a wrong one is refused with 401, 403 or 404. */
const CLIENTS_OWN = /^(openai-organization|openai-project|x-ms-oai-[a-z0-9-]*deployment|x-ms-spillover-deployment)$/

/** Whether the client itself may have caused a refusal of credentials or deployment. Read only once there is one. */
function namesItsOwn({ request }: Exchange): boolean {
  return Object.keys(request.headers).some(name => CLIENTS_OWN.test(name))
}

const CLIENTS: Outcome = { kind: 'clients_own' }
const REFUSALS: ReadonlySet<number> = new Set([401, 403, 404])

/**
 * The outcome with the client's part in it: its own ephemeral key may have expired, its own header may name what is not
 * there.
 */
export function outcomeFor(exchange: Exchange, { upgrade }: ForwardRequest, result: AttemptResult): Outcome {
  const { outcome } = result
  if (result.kind !== 'response') return outcome
  // A handshake whose refusal is no response to the client: it speaks of the route, not of a request.
  if (upgrade?.refusalsMoveOn === true && (outcome.kind === 'served' || outcome.kind === 'clients_own')) {
    return { kind: 'unsupported', detail: `${result.response.status} to a handshake`, wrong: 'either' }
  }
  if (exchange.ephemeral !== undefined && outcome.kind === 'misconfigured') return CLIENTS
  if (outcome.kind !== 'misconfigured' && outcome.kind !== 'failed') return outcome
  return REFUSALS.has(result.response.status) && namesItsOwn(exchange) ? CLIENTS : outcome
}

/** Whether a response is a 400 about that option: API versions before 2024-09 and `data_sources` refuse it. */
export function refusesStreamOptions({ status, body }: UpstreamResponse): boolean {
  if (status !== 400 || body.kind !== 'whole') return false
  const error = readErrorBody(Buffer.concat(body.chunks))
  return /stream_options|include_usage/.test(`${error.param ?? ''} ${error.message}`)
}

/** Whether a resource says that it does not hold, or cannot read, what the request names. */
function deniesState({ status, body }: UpstreamResponse): boolean {
  if ((status !== 400 && status !== 404) || body.kind !== 'whole') return false
  return isForeignState(status, readErrorBody(Buffer.concat(body.chunks)))
}

/**
 * How long after such a denial the same resource is asked once more, in milliseconds. Repeating helped a few hundred
 * milliseconds after the item was streamed (azure/README.md 13.4); at once, most would be denied again.
 */
const OWN_ITEM_PAUSE_MS = 500

/**
 * Azure denies, at random, an item that the same resource made a moment ago; asked again, it has it (azure/README.md
 * 13.4).
 */
function deniesOwnItem(exchange: Exchange, request: ForwardRequest, member: Member, result: SendResult): boolean {
  if (request.itemOwners?.has(member.resourceId) !== true || result.kind === 'upgraded') return false
  return outcomeFor(exchange, request, result).kind === 'state_elsewhere'
}

/** Whether a result needs a second look at the request: only a 400 or a 404 can deny its state or refuse an option. */
function mayNeedAnother(exchange: Exchange, request: ForwardRequest, member: Member, result: SendResult): boolean {
  if (result.kind === 'response' && (result.response.status === 400 || result.response.status === 404)) return true
  return deniesOwnItem(exchange, request, member, result)
}

/** Asks again, where a first result is about the request's state or options. */
async function askAgain(
  exchange: Exchange,
  request: ForwardRequest,
  member: Member,
  deps: TryBackendDeps,
  { fresh, askUsage: asked }: SendHow,
  first: SendResult,
): Promise<BackendResult> {
  const { foreignReasoning, usageOption } = request
  let askUsage = asked
  const send = (): SendResult | Promise<SendResult> =>
    sendToBackend(exchange, request, member, { askUsage, fresh }, deps)

  let result = first
  if (deniesOwnItem(exchange, request, member, result)) {
    // A client that leaves meanwhile gets nothing: the retry loop sees it.
    if (!(await pause(deps.clock, exchange.cancellation, OWN_ITEM_PAUSE_MS))) return asAnswered(result, askUsage)
    result = await send()
  }
  if (result.kind === 'response' && deniesState(result.response) && foreignReasoning?.onDenied(member) === true) {
    result = await send()
  }
  if (askUsage && result.kind === 'response' && refusesStreamOptions(result.response)) {
    askUsage = false
    result = await send()
    // Only then it was the option; and not the client's own, which may be wrong in itself.
    const proved = result.kind === 'response' && result.response.status < 300
    if (proved && usageOption === 'added') deps.unsupported.note(usageOptionOf(member), { forMs: OPTION_REFUSED_MS })
  }
  return asAnswered(result, askUsage)
}

function asAnswered(result: SendResult, asksUsage: boolean): BackendResult {
  if (result.kind !== 'response') return result
  // Written out: see `withBody`.
  const { kind, outcome, response, reused } = result
  return { kind, outcome, response, reused, asksUsage }
}

/** The option that asks for usage, as `unsupported` remembers it. */
function usageOptionOf({ health, backend }: Member): Lack {
  return { deployment: health.id, what: STREAM_OPTIONS, apiVersion: backend.apiVersion }
}

/**
 * Asks a backend, once more without what it has refused, or for what it has denied at random.
 * @param fresh on a connection of its own, as a trial is: its name may mean another address by now
 */
export function tryBackend(
  exchange: Exchange,
  request: ForwardRequest,
  { member, lease }: Leased,
  deps: TryBackendDeps,
  fresh = lease.isTrial,
): BackendResult | Promise<BackendResult> {
  const askUsage = request.usageOption !== undefined && !deps.unsupported.has(usageOptionOf(member))
  const how: SendHow = { askUsage, fresh }
  const answered = (result: SendResult): BackendResult | Promise<BackendResult> =>
    mayNeedAnother(exchange, request, member, result)
      ? askAgain(exchange, request, member, deps, how, result)
      : asAnswered(result, askUsage)
  const sent = sendToBackend(exchange, request, member, how, deps)
  return sent instanceof Promise ? sent.then(answered) : answered(sent)
}
