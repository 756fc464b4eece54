// A self-signed certificate made on the spot, for `--demo --tls` and for tests. Since node:crypto signs, but makes no
// X.509, the few DER elements of one are written here (X.690, RFC 5280).
import { generateKeyPairSync, randomBytes, sign } from 'node:crypto'

export interface Certificate {
  /** PEM. */
  readonly cert: string
  readonly key: string
}

/** One DER element (X.690, section 8.1). */
function der(tag: number, ...contents: readonly Buffer[]): Buffer {
  const content = Buffer.concat(contents)
  if (content.length < 0x80) return Buffer.concat([Buffer.from([tag, content.length]), content])
  // DER wants the shortest form of a length (X.690, section 10.1).
  const digits = content.length.toString(16)
  const length = Buffer.from(digits.padStart(digits.length + (digits.length % 2), '0'), 'hex')
  return Buffer.concat([Buffer.from([tag, 0x80 + length.length]), length, content])
}

const sequence = (...contents: readonly Buffer[]): Buffer => der(0x30, ...contents)
const objectId = (hex: string): Buffer => der(0x06, Buffer.from(hex, 'hex'))

const ECDSA_WITH_SHA256 = sequence(objectId('2a8648ce3d040302'))
const COMMON_NAME = objectId('550403')
const SUBJECT_ALT_NAME = objectId('551d11')

/** A name of one part, as issuer and as subject. */
function nameOf(commonName: string): Buffer {
  return sequence(der(0x31, sequence(COMMON_NAME, der(0x0c, Buffer.from(commonName)))))
}

/** UTCTime, to the second: the form for years before 2050 (RFC 5280, section 4.1.2.5). */
function time(date: string): Buffer {
  return der(0x17, Buffer.from(date))
}

export interface CertificateOptions {
  /** DNS names it is for, besides 127.0.0.1. */
  readonly names?: readonly string[]
  /** UTCTime: `200101000000Z`. */
  readonly from?: string
  readonly until?: string
}

/** For 127.0.0.1 (RFC 5280, section 4.1), and good for as long as a test may live, unless the options say otherwise. */
export function makeCertificate(
  commonName: string,
  { names = [], from = '200101000000Z', until = '491231235959Z' }: CertificateOptions = {},
): Certificate {
  // As bytes, not as key objects: see issuer.ts.
  const { privateKey, publicKey } = generateKeyPairSync('ec', {
    namedCurve: 'P-256',
    publicKeyEncoding: { type: 'spki', format: 'der' },
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
  })
  const name = nameOf(commonName)
  const alternatives = [der(0x87, Buffer.from([127, 0, 0, 1])), ...names.map(one => der(0x82, Buffer.from(one)))]
  const toBeSigned = sequence(
    der(0xa0, der(0x02, Buffer.from([2]))),
    der(0x02, Buffer.concat([Buffer.from([1]), randomBytes(8)])),
    ECDSA_WITH_SHA256,
    name,
    sequence(time(from), time(until)),
    name,
    publicKey,
    der(0xa3, sequence(sequence(SUBJECT_ALT_NAME, der(0x04, sequence(...alternatives))))),
  )
  const signature = Buffer.concat([Buffer.from([0]), sign('sha256', toBeSigned, privateKey)])
  const whole = sequence(toBeSigned, ECDSA_WITH_SHA256, der(0x03, signature))
  const lines = whole.toString('base64').match(/.{1,64}/g) ?? []
  return {
    cert: `-----BEGIN CERTIFICATE-----\n${lines.join('\n')}\n-----END CERTIFICATE-----\n`,
    key: privateKey,
  }
}
