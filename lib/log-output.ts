// Where log lines go: a file or a standard stream that may be slow, full or gone. Lines wait in a bounded queue, are written
// in batches without ever blocking the event loop, and are counted when they have to be dropped. It knows nothing of what they say.
import fs from 'node:fs'
import net from 'node:net'
import os from 'node:os'

export interface LogOutput {
  /** Takes a line without its newline. Never throws, never blocks. */
  write(line: string): void
  /** Lines dropped so far: the reader was too slow, or the disk is full. */
  dropped(): number
  /** Closes the file and opens it again under its name, for logrotate. */
  reopen(): void
  /** Resolves when everything queued is written, or cannot be. */
  flush(timeoutMs: number): Promise<void>
}

/** Text waiting for a slow reader; about ten thousand request lines. */
const MAX_QUEUED_CHARS = 4 * 1024 * 1024
/** After a failed write (full disk, EAGAIN) the next try. */
const RETRY_MS = 100

/**
 * Lines gather for so long, or up to so much, before they are written together: a write crosses to the thread pool and back,
 * which at a line a request was an eighth of what a request costs. The timer keeps the process alive for its lines.
 */
const GATHER_MS = 20
const GATHER_MAX_CHARS = 64 * 1024

/** Writes text somewhere; calls back when it is there, or with the error. */
type Writer = (text: string, done: (error: NodeJS.ErrnoException | null) => void) => void

function fileWriter(fd: number): Writer {
  return (text, done) => {
    const bytes = Buffer.from(text)
    const writeFrom = (offset: number): void => {
      fs.write(fd, bytes, offset, bytes.length - offset, null, (error, written) => {
        if (error !== null) done(error)
        else if (offset + written < bytes.length) writeFrom(offset + written)
        else done(null)
      })
    }
    writeFrom(0)
  }
}

function streamWriter(fd: number): Writer {
  // process.stdout would write to a pipe synchronously and stop the event loop with its reader; a socket does not.
  const socket = new net.Socket({ fd, readable: false, writable: true })
  socket.on('error', () => undefined)
  socket.unref()
  return (text, done) => {
    if (socket.destroyed) done(Object.assign(new Error('closed'), { code: 'EPIPE' }))
    else socket.write(text, error => done(error ?? null))
  }
}

function writerFor(fd: number): Writer {
  try {
    const stat = fs.fstatSync(fd)
    if (os.platform() !== 'win32' && (stat.isFIFO() || stat.isSocket())) return streamWriter(fd)
  } catch {
    return (_text, done) => done(Object.assign(new Error('closed'), { code: 'EBADF' }))
  }
  return fileWriter(fd)
}

/** How a target is opened; a path is appended to. */
export type LogTarget = { readonly kind: 'fd'; readonly fd: number } | { readonly kind: 'file'; readonly path: string }

/** Writes to a pipe up to this size are not mixed with another process's (POSIX: PIPE_BUF is 4,096 on Linux, 512 at least). */
export const ATOMIC_WRITE_CHARS = 4_000

/**
 * @param maxBatchChars lines written at once, in characters; ATOMIC_WRITE_CHARS where several processes share the target
 * @throws only here, at the start, when a file cannot be opened for appending
 */
export function createLogOutput(target: LogTarget, maxBatchChars: number = MAX_QUEUED_CHARS): LogOutput {
  let fd = target.kind === 'fd' ? target.fd : fs.openSync(target.path, 'a', 0o640)
  let writer = writerFor(fd)
  const queue: string[] = []
  let queuedChars = 0
  let writing = false
  let dropped = 0
  let broken = false
  let scheduled = false
  let urgent = false
  const idle: (() => void)[] = []

  const settle = (): void => {
    for (const resolve of idle.splice(0)) resolve()
  }
  const takeBatch = (): string[] => {
    let chars = 0
    let count = 0
    for (const line of queue) {
      chars += line.length + 1
      if (count > 0 && chars > maxBatchChars) break
      count++
    }
    return queue.splice(0, count)
  }
  const pump = (): void => {
    scheduled = false
    urgent = false
    if (writing) return
    if (queue.length === 0 || broken) {
      settle()
      return
    }
    const lines = takeBatch()
    const text = `${lines.join('\n')}\n`
    queuedChars -= text.length
    writing = true
    writer(text, error => {
      writing = false
      if (error === null) {
        pump()
        return
      }
      dropped += lines.length
      // A reader that is gone does not come back; a full disk may be emptied.
      if (target.kind === 'fd' && (error.code === 'EPIPE' || error.code === 'EBADF')) {
        broken = true
        dropped += queue.splice(0).length
        queuedChars = 0
      }
      settle()
      if (!broken) setTimeout(pump, RETRY_MS).unref()
    })
  }

  return {
    write(line) {
      if (broken || queuedChars + line.length > MAX_QUEUED_CHARS) {
        dropped++
        return
      }
      queue.push(line)
      queuedChars += line.length + 1
      if (writing) return
      if (queuedChars >= GATHER_MAX_CHARS && !urgent) {
        urgent = true
        setImmediate(pump)
      }
      if (scheduled) return
      scheduled = true
      setTimeout(pump, GATHER_MS)
    },
    dropped: () => dropped,
    reopen() {
      if (target.kind !== 'file') return
      try {
        const next = fs.openSync(target.path, 'a', 0o640)
        const old = fd
        fd = next
        writer = writerFor(next)
        // A write that is under way may still need the old one.
        setTimeout(() => fs.close(old, () => undefined), 1_000).unref()
      } catch {
        // The old file goes on being written: better under a rotated name than nowhere.
      }
    },
    flush(timeoutMs) {
      if (!writing && queue.length === 0) return Promise.resolve()
      return new Promise(resolve => {
        const timer = setTimeout(resolve, timeoutMs)
        idle.push(() => {
          clearTimeout(timer)
          resolve()
        })
        if (!writing) pump()
      })
    },
  }
}
