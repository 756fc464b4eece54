// `--demo`.
import type { ExitCode } from './exit-code.ts'
export async function demo(_: { readonly port: number | undefined; readonly version: string }): Promise<ExitCode> {
  return 1
}
