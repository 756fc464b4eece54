// Errors that stop a build, in words for the person who started it.

/** An expected failure: shown as its message alone, without a stack. */
export class BuildError extends Error {
  override readonly name = 'BuildError'
  /** 2: what was asked for is wrong; 1: it could not be done. */
  readonly exitCode: 1 | 2

  constructor(message: string, exitCode: 1 | 2 = 1) {
    super(message)
    this.exitCode = exitCode
  }
}

function codeOf(error: unknown): string {
  return typeof error === 'object' && error !== null && 'code' in error ? String(error.code) : ''
}

/** @returns what is to be said of a failure, and the exit code that goes with it */
export function explain(error: unknown): { readonly message: string; readonly exitCode: 1 | 2 } {
  if (error instanceof BuildError) return { message: error.message, exitCode: error.exitCode }
  const code = codeOf(error)
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return {
      message:
        'no space left on the device (a build of all six platforms needs about 1.5 GB); nothing was put in place',
      exitCode: 1,
    }
  }
  return { message: error instanceof Error ? (error.stack ?? error.message) : String(error), exitCode: 1 }
}
