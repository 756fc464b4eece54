// The entry of a packaged executable. Workers start here too: lib/main.ts knows them by their environment, never by
// argv, which in a packaged worker repeats the path of the executable.
import process from 'node:process'
import { main } from '../../lib/main.ts'

/** Put in by the bundler. */
declare const __APP_VERSION__: string

main(process.argv.slice(2), { version: __APP_VERSION__ }).then(
  code => {
    process.exitCode = code
  },
  (error: unknown) => {
    process.stderr.write(
      `azure-openai-proxy: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`,
    )
    process.exitCode = 1
  },
)
