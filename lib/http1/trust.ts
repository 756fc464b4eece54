// The CAs that are trusted, and the certificate that is shown, for a route. Each has one TLS context, made when it is
// first needed: to read some 150 certificates takes tens of milliseconds.
import { readFileSync } from 'node:fs'
import { isIP, type Socket } from 'node:net'
import tls from 'node:tls'
import type { Endpoint, Route } from '../config/types.ts'
import type { ShownCertificate } from './connect-error.ts'

/** Where Linux distributions keep the system's CAs; Node before 22.15 cannot ask for them. */
const SYSTEM_BUNDLES = [
  '/etc/ssl/certs/ca-certificates.crt',
  '/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem',
  '/etc/ssl/ca-bundle.pem',
  '/etc/ssl/cert.pem',
] as const

/** Contexts kept: one for each set of CAs and certificate of the configs that are in use. */
const MAX_CONTEXTS = 64

const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g

/** The certificates of PEM texts, each once, whatever their line breaks. */
function certificatesIn(texts: readonly string[]): readonly string[] {
  const found = new Map<string, string>()
  for (const text of texts) {
    for (const [certificate] of text.matchAll(CERTIFICATE)) found.set(certificate.replaceAll(/\s/g, ''), certificate)
  }
  return [...found.values()]
}

function isTexts(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.every(text => typeof text === 'string')
}

/** Node's own CAs with NODE_EXTRA_CA_CERTS, and the system's. */
function knownCas(): readonly string[] {
  // Since Node 22.15 and 23.10.
  const ask: unknown = Reflect.get(tls, 'getCACertificates')
  if (typeof ask === 'function') {
    return ['default', 'system'].flatMap(type => {
      const texts: unknown = Reflect.apply(ask, tls, [type])
      return isTexts(texts) ? texts : []
    })
  }
  for (const path of SYSTEM_BUNDLES) {
    try {
      return [...tls.rootCertificates, readFileSync(path, 'utf8')]
    } catch {
      // Another system keeps them elsewhere.
    }
  }
  return tls.rootCertificates
}

type TlsOptions = Pick<tls.ConnectionOptions, 'servername' | 'rejectUnauthorized' | 'ALPNProtocols' | 'secureContext'>

export interface Trust {
  /** How a handshake is made. @param name what the certificate must be for */
  optionsFor(route: Route | undefined, name: string): TlsOptions
  /**
   * The context for a route; undefined: straight, with the system's CAs. @throws what OpenSSL says of unusable PEM
   * texts
   */
  contextFor(route: Route | undefined): tls.SecureContext
}

export function createTrust(): Trust {
  const contexts = new Map<string, tls.SecureContext>()
  let known: readonly string[] | undefined
  const trust: Trust = {
    optionsFor: (route, name) => ({
      // An address is no name to ask a certificate for (RFC 6066 section 3).
      servername: isIP(name) === 0 ? name : '',
      // Whatever the environment says: NODE_TLS_REJECT_UNAUTHORIZED=0 would send keys to anybody.
      rejectUnauthorized: true,
      ALPNProtocols: ['http/1.1'],
      secureContext: trust.contextFor(route),
    }),
    contextFor(route) {
      const id = route === undefined || (route.ca.length === 0 && route.identity === undefined) ? '' : route.id
      const made = contexts.get(id)
      if (made !== undefined) return made
      known ??= certificatesIn(knownCas())
      const own = certificatesIn((route?.ca ?? []).map(text => text.reveal()))
      const context = tls.createSecureContext({
        ca: own.length === 0 ? [...known] : [...certificatesIn([...known, ...own])],
        ...(route?.identity === undefined
          ? {}
          : { cert: route.identity.cert.reveal(), key: route.identity.key.reveal() }),
      })
      for (const oldest of contexts.keys()) {
        if (contexts.size < MAX_CONTEXTS) break
        contexts.delete(oldest)
      }
      contexts.set(id, context)
      return context
    },
  }
  return trust
}

/** The name that the certificate must be for. */
export function serverNameOf({ hostname, route }: Endpoint): string {
  return route?.serverName ?? hostname
}

/** The client's certificate is for the backend, and no business of a proxy's. */
export function withoutIdentity(route: Route | undefined): Route | undefined {
  return route?.identity === undefined ? route : { ...route, id: `${route.id} without`, identity: undefined }
}

/** Certificates as far as messages need them. */
function shownBy(socket: tls.TLSSocket): ShownCertificate | undefined {
  const certificate = socket.getPeerCertificate()
  if (certificate === null || certificate.valid_to === undefined) return undefined
  const { valid_to: validTo, valid_from: validFrom, subjectaltname, subject, issuer } = certificate
  const text = (value: string | readonly string[] | undefined): string => (value === undefined ? '' : String(value))
  return { validTo, validFrom, names: subjectaltname ?? text(subject?.CN), issuer: text(issuer?.CN ?? issuer?.O) }
}

/**
 * Keeps what the far side shows, for the words of a failure: once a socket has failed it can no longer be asked.
 * `secure` is not documented; where a Node does not emit it, the message names no day and no names.
 */
export function watchCertificate(socket: Socket): () => ShownCertificate | undefined {
  let seen: ShownCertificate | undefined
  if (socket instanceof tls.TLSSocket) socket.prependOnceListener('secure', () => (seen = shownBy(socket)))
  return () => seen
}
