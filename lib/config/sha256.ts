// The digest under which client keys are kept and compared; knows nothing of where a key came from.
import { createHash } from 'node:crypto'

/** Bytes of a SHA-256 digest. */
export const SHA256_BYTES = 32

/** SHA-256 of the text's UTF-8 bytes: 32 bytes, what `auth.keys[].key_sha256` spells in hex. */
export function sha256(text: string): Buffer {
  return createHash('sha256').update(text, 'utf8').digest()
}
