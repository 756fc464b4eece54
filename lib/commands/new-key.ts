// `--new-key NAME`: makes a client key, shows it this once, and the config lines that hold only its hash.
import { randomBytes } from 'node:crypto'
import { sha256 } from '../config/secret.ts'
import type { ExitCode } from './exit-code.ts'

/** As for `auth.keys[].name`. */
const NAME = /^[\x20-\x7e]{1,128}$/
/** 256 bits: cannot be guessed, whatever is known of other keys. */
const KEY_BYTES = 32

/** Some clients take only keys that begin like OpenAI's. */
const PREFIX = 'sk-'

/** `--new-key`: on standard output the key and the lines for the config. 2: such a name cannot be used. */
export function newKey(name: string): ExitCode {
  if (!NAME.test(name) || name.trim() === '') {
    process.stderr.write('azure-openai-proxy: --new-key takes a name of at most 128 visible ASCII characters\n')
    return 2
  }
  const key = PREFIX + randomBytes(KEY_BYTES).toString('base64url')
  // A JSON string is a YAML one, whatever the name holds; a dollar before a brace would begin a variable.
  const quoted = JSON.stringify(name).replaceAll(/\$(?=\{)/g, '$$$$')
  process.stdout.write(`The key, shown this once and kept nowhere:

  ${key}

For the config, in auth.keys:

    - name: ${quoted}
      key_sha256: "${sha256(key).toString('hex')}"
`)
  return 0
}
