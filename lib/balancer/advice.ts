// One sentence for each reason of trouble that says what to do about it: the same in log, status page, --probe and
// alerts. Pure.
import type { EjectReason } from './health-state.ts'
import type { WrongPart } from './unsupported.ts'

/** A kind of trouble with a cure of its own: a reason, or what a reason's detail tells more closely. */
export type AdviceCode =
  | EjectReason
  | 'name_unknown'
  | 'ca_unknown'
  | 'certificate_ended'
  | 'certificate_name'
  | 'plain_port'
  | 'wrong_version'
  | 'wrong_path'
  | 'certificate_ends'
  | 'throttled'

/** English; the status page has them in Chinese too (dashboard/page/words.zh.json, `todo_CODE`). */
export const ADVICE: Readonly<Record<AdviceCode, string>> = {
  connect_failed: 'Check firewall, route and port between this machine and the endpoint; --probe says where it stops.',
  name_unknown:
    'This machine cannot resolve the name: check the endpoint, the private DNS zone, and whether an egress proxy is needed.',
  ca_unknown:
    'Its certificate is signed by a CA that this machine does not know, as of a TLS-inspecting proxy: name it in egress.ca.',
  certificate_ended: "Its certificate has ended: renew it; if it is Azure's own, check this machine's clock.",
  certificate_name:
    'Its certificate is for another name: use the public name of the resource, not the privatelink one.',
  plain_port: 'The port does not speak TLS: check scheme and port of the endpoint.',
  connect_timeout:
    'Nothing answers at the address: check firewall, route and private endpoint; --probe says where it stops.',
  connection_lost:
    'The connection was cut: if it goes on, look for a firewall or load balancer with a short idle time.',
  protocol_error: 'What answers is not proper HTTP: check the endpoint and the boxes in between.',
  header_timeout: "Give reasoning models a longer models.*.timeout; else look at the deployment's load in the portal.",
  first_output_timeout: "Raise retry.first_output_timeout for reasoning models; else look at the deployment's load.",
  idle_timeout: 'Look for a proxy in between that holds events back; or raise retry.idle_timeout.',
  server_error: "Azure fails: if it lasts, see Azure's status page and the resource's health in the portal.",
  stream_error:
    "Azure fails inside streams: if it lasts, see Azure's status page and the resource's health in the portal.",
  credentials_refused: 'Check api_key, or the role of the identity (Cognitive Services OpenAI User).',
  account_refused: 'Look at the resource in the portal: its account or subscription is blocked or unpaid.',
  network_refused:
    "Allow this machine's address under the resource's Networking, or use its private endpoint; the key is not the trouble.",
  egress_refused: 'Check the egress proxy and its credentials (egress.proxy): requests do not get out.',
  deployment_missing: 'Check deployment in the config against the portal: the resource has none of that name.',
  operation_not_supported: 'The deployment is of another kind than this model needs: check deployment in the config.',
  not_an_api: 'A web page answers: check the endpoint, and look for a login page or a filter in between.',
  credential_unavailable: 'Check the identity, and that this machine reaches the token endpoint.',
  probe_failed: 'Run --probe to see what fails.',
  by_hand: 'Restore it on the status page when the work is done.',
  wrong_version: 'Check api_version in the config: this operation is not served there at that version.',
  wrong_path:
    "Check the path of the endpoint, or a gateway's routes; then api_version: this operation is not served there.",
  certificate_ends: 'Its certificate ends soon: renew it there.',
  throttled:
    "Azure's limit for this deployment is reached: others take its requests; raise its quota, or add a backend.",
}

/** Codes of node and OpenSSL in the detail of a failed connection, and what they tell. */
const CONNECT_DETAILS: readonly (readonly [RegExp, AdviceCode])[] = [
  [/\b(?:ENOTFOUND|EAI_AGAIN|ENODATA|EAI_NONAME)\b/, 'name_unknown'],
  [/\b(?:UNABLE_TO_(?:VERIFY|GET)_\w+|(?:DEPTH_ZERO_)?SELF_SIGNED_CERT\w*|CERT_UNTRUSTED)\b/, 'ca_unknown'],
  [/\bCERT_(?:HAS_EXPIRED|NOT_YET_VALID)\b/, 'certificate_ended'],
  [/\bERR_TLS_CERT_ALTNAME_INVALID\b/, 'certificate_name'],
  [/\b(?:ERR_SSL_WRONG_VERSION_NUMBER|ERR_SSL_PACKET_LENGTH_TOO_LONG)\b/, 'plain_port'],
]

/** A probe's detail begins with the reason of what it met. */
const PROBED = /^(\w+): /
/** A page that is no login page: no route, or no such path. */
const NO_ROUTE = /^(?:404|410) /

function isAdviceCode(text: string): text is AdviceCode {
  return Object.hasOwn(ADVICE, text)
}

function connectCode(detail: string): AdviceCode | undefined {
  return CONNECT_DETAILS.find(([pattern]) => pattern.test(detail))?.[1]
}

/**
 * Which advice fits.
 * @param detail what was seen, which tells some reasons more closely
 */
export function adviceCode(reason: EjectReason, detail: string): AdviceCode {
  switch (reason) {
    case 'connect_failed':
      return connectCode(detail) ?? reason
    case 'not_an_api':
      return NO_ROUTE.test(detail) ? 'wrong_path' : reason
    case 'probe_failed': {
      const met = PROBED.exec(detail)?.[1] ?? ''
      if (met === 'connect_failed') return connectCode(detail) ?? met
      return isAdviceCode(met) ? met : reason
    }
    default:
      return reason
  }
}

/** The sentence for a reason and what was seen. */
export function adviceFor(reason: EjectReason, detail: string): string {
  return ADVICE[adviceCode(reason, detail)]
}

/** The sentence for an operation that a backend does not offer. */
export function lackAdvice(wrong: WrongPart): string {
  return ADVICE[`wrong_${wrong}`]
}
