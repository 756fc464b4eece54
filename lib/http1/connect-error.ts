// Why a connection was never made: in which phase, with a code for machines and words with a cure for people.

/** Where it failed. `proxy`: on the way out, before the backend could be reached. */
export type ConnectPhase = 'resolve' | 'connect' | 'tls' | 'proxy'

export interface ConnectFailure {
  readonly phase: ConnectPhase
  /** The system's code, OpenSSL's, or one of ours; safe to show. */
  readonly code: string
  /** What is wrong and what to do; holds no secret. */
  readonly words: string
  /** The time ran out: a phase that hangs, in contrast to one that was refused. */
  readonly timeout?: boolean
  /** In phase `proxy`: the proxy refuses this host alone, or whatever it is asked. */
  readonly scope?: 'host' | 'proxy'
}

/** No request has been sent: nothing of it can have reached the backend. */
export class ConnectError extends Error {
  readonly phase: ConnectPhase
  readonly code: string
  readonly timeout: boolean
  readonly scope: 'host' | 'proxy'

  constructor({ phase, code, words, timeout = false, scope = 'host' }: ConnectFailure) {
    super(words)
    this.phase = phase
    this.code = code
    this.timeout = timeout
    this.scope = scope
  }
}

/**
 * What this machine itself ran out of (errno(3)): descriptors, buffers, memory, local ports. It says nothing of the far
 * side.
 */
const SHORTAGES: ReadonlySet<string> = new Set(['EMFILE', 'ENFILE', 'ENOBUFS', 'ENOMEM', 'EADDRNOTAVAIL'])

/** Whether a code tells of a shortage of this machine's own. */
export function isShortage(code: string): boolean {
  return SHORTAGES.has(code)
}

/** The code of a system error, of OpenSSL or of Node; texts may hold anything and are not shown. */
export function codeOf(error: unknown): string {
  const code: unknown = typeof error === 'object' && error !== null && 'code' in error ? error.code : undefined
  return typeof code === 'string' && /^\w{1,64}$/.test(code) ? code : 'error'
}

/** What is known of the certificate that the far side showed. */
export interface ShownCertificate {
  readonly validTo: string
  readonly validFrom: string
  /** `DNS:a.example, DNS:b.example`, or the common name. */
  readonly names: string
  readonly issuer: string
}

/** Longest piece of a certificate's own text in a message. */
const MAX_SHOWN_CHARS = 120

function shown(text: string): string {
  const plain = text.replaceAll(/[^\x20-\x7e]/g, '?')
  return plain.length > MAX_SHOWN_CHARS ? `${plain.slice(0, MAX_SHOWN_CHARS)}…` : plain
}

const UNKNOWN_CA =
  /^(UNABLE_TO_VERIFY_LEAF_SIGNATURE|UNABLE_TO_GET_ISSUER_CERT|UNABLE_TO_GET_ISSUER_CERT_LOCALLY|SELF_SIGNED_CERT_IN_CHAIN|DEPTH_ZERO_SELF_SIGNED_CERT|CERT_UNTRUSTED)$/
/** What OpenSSL says of bytes that are no TLS record. */
const NO_TLS =
  /^(ERR_SSL_WRONG_VERSION_NUMBER|ERR_SSL_PACKET_LENGTH_TOO_LONG|ERR_SSL_HTTP_REQUEST|ERR_SSL_UNKNOWN_PROTOCOL)$/
const WANTS_CERTIFICATE =
  /^ERR_SSL_(TLSV13_ALERT_CERTIFICATE_REQUIRED|SSLV3_ALERT_(HANDSHAKE_FAILURE|BAD_CERTIFICATE))$/

/**
 * A failed handshake in words, with the cure.
 * @param host the name that was asked for
 * @param certificate what the far side showed, if it came that far
 */
export function tlsWords(code: string, host: string, certificate: ShownCertificate | undefined): string {
  if (UNKNOWN_CA.test(code)) {
    const issuer = certificate === undefined || certificate.issuer === '' ? '' : ` (${shown(certificate.issuer)})`
    return `the certificate is signed by a CA that this machine does not know${issuer}: an inspecting proxy? Name its PEM file in egress.ca or the backend's tls.ca`
  }
  if (code === 'CERT_HAS_EXPIRED') {
    const day = certificate === undefined ? '' : ` on ${dayOf(certificate.validTo)}`
    return `the certificate expired${day}: renew it there, or set this machine's clock right`
  }
  if (code === 'CERT_NOT_YET_VALID') {
    const day = certificate === undefined ? 'later' : dayOf(certificate.validFrom)
    return `the certificate is valid from ${day} on: is this machine's clock right?`
  }
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') {
    const names = certificate === undefined || certificate.names === '' ? 'other names' : shown(certificate.names)
    return `the certificate is for ${names}, not for ${host}: write the endpoint with one of these names, or name it in the backend's tls.server_name`
  }
  if (NO_TLS.test(code)) return 'the port speaks plain http, not TLS: write http:// in the endpoint, or another port'
  if (WANTS_CERTIFICATE.test(code)) {
    return "the handshake is refused: a client certificate is wanted, or another one (the backend's tls.cert and tls.key)"
  }
  return `TLS fails (${code})`
}

/** `2026-01-31` of a certificate's date, which OpenSSL writes as `Jan 31 12:00:00 2026 GMT`. */
function dayOf(date: string): string {
  const ms = Date.parse(date)
  return Number.isNaN(ms) ? 'an unreadable date' : new Date(ms).toISOString().slice(0, 10)
}

/**
 * A connection that could not be made, in words.
 * @param where host and port
 */
export function connectWords(code: string, where: string): string {
  switch (code) {
    case 'ECONNREFUSED':
      return `nothing listens at ${where}, or a firewall refuses it`
    case 'ENOTFOUND':
      return `${where} is not known: a misspelt name, a private DNS zone that this machine does not ask, or a network whose only way out is a proxy (egress.proxy)`
    case 'EHOSTUNREACH':
    case 'ENETUNREACH':
      return `there is no route to ${where}: a firewall, or a network whose only way out is a proxy (egress.proxy)`
    case 'ETIMEDOUT':
      return `${where} does not answer: a firewall that drops silently, or a network whose only way out is a proxy (egress.proxy)`
    case 'EAI_AGAIN':
      return `the resolver does not answer for ${where}`
    case 'ECONNRESET':
      return `${where} hung up before the connection was made`
    default:
      return isShortage(code) ? `this machine has nothing left to connect with (${code})` : `no connection to ${where}`
  }
}
