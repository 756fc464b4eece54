// Ends of certificates: the listener's, those that the config names for the way to backends, and those that backends
// show. Said once a day in the log when one ends soon, and handed to metrics and the status page.
import { X509Certificate } from 'node:crypto'
import { TLSSocket } from 'node:tls'
import type { Clock, Timer } from '../clock.ts'
import { leftText } from '../config/auth.ts'
import type { Secret } from '../config/secret.ts'
import type { Config, Endpoint } from '../config/types.ts'
import type { CertificateEntry } from '../dashboard/entries.ts'
import type { Log } from '../log.ts'

/** A certificate that ends sooner is spoken of: time enough to renew it. */
export const CERTIFICATE_WARNING_MS = 14 * 86_400_000
/** How often a certificate that ends soon is spoken of. */
const REMIND_MS = 86_400_000
/** A backend's certificate is read anew after this: it is renewed every few weeks. */
const READ_AGAIN_MS = 3_600_000
/** A file with more is a bundle of public CAs, of which some always end. */
const MAX_OWN_CERTIFICATES = 8
/** Hosts remembered; more than any config has. */
const MAX_HOSTS = 10_000

const PEM = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g

/** The end of a certificate in epoch milliseconds; undefined where there is none, or none that says it. */
export function certificateEndMs(pem: string | Buffer): number | undefined {
  try {
    const endsMs = Date.parse(new X509Certificate(pem).validTo)
    return Number.isNaN(endsMs) ? undefined : endsMs
  } catch {
    return undefined
  }
}

/** The first end in a PEM file; undefined for a bundle of public CAs. */
function firstEndMs(pem: string): number | undefined {
  const certificates = pem.match(PEM) ?? []
  if (certificates.length > MAX_OWN_CERTIFICATES) return undefined
  const ends = certificates.flatMap(each => certificateEndMs(each) ?? [])
  return ends.length === 0 ? undefined : Math.min(...ends)
}

/**
 * The certificates that a config names for the way to backends: `egress.ca`, `NAME tls.ca` and `NAME tls.cert`, by the
 * backend's name. Of several under one name the first to end counts.
 */
export function configCertificates({ egress, models }: Pick<Config, 'egress' | 'models'>): ReadonlyMap<string, number> {
  const ends = new Map<string, number>()
  const add = (cert: string, pem: Secret): void => {
    const endsMs = firstEndMs(pem.reveal())
    if (endsMs !== undefined) ends.set(cert, Math.min(endsMs, ends.get(cert) ?? Number.POSITIVE_INFINITY))
  }
  for (const pem of egress.ca) add('egress.ca', pem)
  for (const { backends } of models) {
    for (const { name, endpoint } of backends) {
      const { ca = [], identity } = endpoint.route ?? {}
      for (const pem of ca) if (!egress.ca.some(each => each.equals(pem))) add(`${name} tls.ca`, pem)
      if (identity !== undefined) add(`${name} tls.cert`, identity.cert)
    }
  }
  return ends
}

export interface Certificates {
  /** A connection to a backend was made: its certificate is read, once an hour a host. */
  met(endpoint: Endpoint, socket: unknown): void
  /** All that are known, by name; the config's own and those of its hosts. */
  all(): ReadonlyMap<string, CertificateEntry>
  /** Speaks of those that end soon, now and once a day; one process of several does. */
  start(): void
  stop(): void
}

export interface CertificatesOptions {
  readonly clock: Clock
  readonly log: Log
  /** The one in force. */
  config(): Config
  /** The end of the listener's, in epoch milliseconds; null: plain HTTP. */
  listenerEndsMs(): number | null
}

/** Those of the way to backends that end within two weeks, or have; the first to end stands first. */
export function endingCertificates({ all }: Certificates, epochMs: number): readonly CertificateEntry[] {
  return [...all().values()]
    .filter(({ kind, ends_ms }) => kind !== 'listener' && ends_ms - epochMs <= CERTIFICATE_WARNING_MS)
    .sort((a, b) => a.ends_ms - b.ends_ms)
}

/** What to do about a certificate, by where it comes from. */
const CURES: Readonly<Record<CertificateEntry['kind'], string>> = {
  listener: 'Renew the files that server.tls names, and reload.',
  file: 'Renew the file that the config names, and reload.',
  backend: 'It is renewed where the backend is: ask its operator.',
}

export function createCertificates({ clock, log, config, listenerEndsMs }: CertificatesOptions): Certificates {
  const shown = new Map<string, { readonly endsMs: number | undefined; readonly readMs: number }>()
  /** The config's own change with it alone: reading them costs some 50 µs each. */
  const named = new WeakMap<Config, ReadonlyMap<string, number>>()
  let timer: Timer | undefined

  const namedIn = (current: Config): ReadonlyMap<string, number> => {
    const known = named.get(current) ?? configCertificates(current)
    named.set(current, known)
    return known
  }
  const all = (): ReadonlyMap<string, CertificateEntry> => {
    const current = config()
    const found = new Map<string, CertificateEntry>()
    const listener = listenerEndsMs()
    if (listener !== null) found.set('listener', { cert: 'listener', kind: 'listener', ends_ms: listener })
    for (const [cert, ends_ms] of namedIn(current)) found.set(cert, { cert, kind: 'file', ends_ms })
    for (const { backends } of current.models) {
      for (const { endpoint } of backends) {
        const { host: cert } = endpoint
        const ends_ms = shown.get(cert)?.endsMs
        if (endpoint.protocol === 'https:' && ends_ms !== undefined) found.set(cert, { cert, kind: 'backend', ends_ms })
      }
    }
    return found
  }
  const speak = (): void => {
    const nowMs = clock.epochMs()
    for (const { cert, kind, ends_ms } of all().values()) {
      if (ends_ms - nowMs > CERTIFICATE_WARNING_MS) continue
      const ends = new Date(ends_ms).toISOString()
      const todo = CURES[kind]
      if (ends_ms <= nowMs) log.error('certificate has ended', { cert, ends, todo })
      else log.warn('certificate ends soon', { cert, ends, left: leftText(ends_ms - nowMs), todo })
    }
  }
  return {
    met({ host, protocol }, socket) {
      if (protocol !== 'https:' || !(socket instanceof TLSSocket)) return
      const nowMs = clock.nowMs()
      const known = shown.get(host)
      if (known !== undefined && nowMs - known.readMs < READ_AGAIN_MS) return
      if (shown.size >= MAX_HOSTS) shown.clear()
      const endsMs = Date.parse(socket.getPeerCertificate().valid_to ?? '')
      shown.set(host, { endsMs: Number.isNaN(endsMs) ? known?.endsMs : endsMs, readMs: nowMs })
    },
    all,
    start() {
      if (timer !== undefined) return
      timer = clock.every(REMIND_MS, speak)
      speak()
    },
    stop() {
      timer?.cancel()
    },
  }
}
