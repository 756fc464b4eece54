// The target of log lines: a file or a standard stream that may be slow, full or gone. Lines wait in a bounded queue,
// are written in batches without ever blocking the event loop, and are counted when they have to be dropped. It knows
// nothing of what they say.
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

/** Waiting for a slow reader; about ten thousand request lines. */
const MAX_QUEUED_BYTES = 4 * 1024 * 1024
/** After a failed write (full disk, EAGAIN) the next try. */
const RETRY_MS = 100

/**
 * Lines gather for so long, or up to so much, before they are written together: a write crosses to the thread pool and
 * back, which at a line a request was an eighth of what a request costs. The timer keeps the process alive for its
 * lines.
 */
const GATHER_MS = 20
const GATHER_MAX_BYTES = 64 * 1024

const NEWLINE = 0x0a
const LINE_END = Buffer.from('\n')

/**
 * Lines that will be written together. They wait as bytes: a line that has just been joined is a tree of some fifty
 * strings, a hundred such trees that wait made each short pause of the garbage collector 1.5 ms instead of 0.65.
 */
interface Batch {
  readonly bytes: Buffer
  used: number
  lines: number
}

function hasRoom({ bytes, used }: Batch, line: string): boolean {
  const room = bytes.length - used - 1
  // No character takes more than three bytes; near the end it is worth counting them.
  return line.length * 3 <= room || Buffer.byteLength(line) <= room
}

/** Writes bytes somewhere; calls back when they are there and no longer needed, or with the error. */
type Writer = (bytes: Buffer, done: (error: NodeJS.ErrnoException | null, written: number) => void) => void

/** The system's call, as an argument: a disk that is full half-way is not to be had in a test. */
export type WriteToFile = (
  fd: number,
  bytes: Buffer,
  offset: number,
  length: number,
  position: null,
  done: (error: NodeJS.ErrnoException | null, written: number) => void,
) => void

function fileWriter(fd: number, write: WriteToFile): Writer {
  return (bytes, done) => {
    const writeFrom = (offset: number): void => {
      write(fd, bytes, offset, bytes.length - offset, null, (error, written) => {
        if (error !== null) done(error, offset)
        else if (offset + written < bytes.length) writeFrom(offset + written)
        else done(null, bytes.length)
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
  return (bytes, done) => {
    if (socket.destroyed) done(Object.assign(new Error('closed'), { code: 'EPIPE' }), 0)
    else socket.write(bytes, error => done(error ?? null, 0))
  }
}

function writerFor(fd: number, write: WriteToFile): Writer {
  try {
    const stat = fs.fstatSync(fd)
    if (os.platform() !== 'win32' && (stat.isFIFO() || stat.isSocket())) return streamWriter(fd)
  } catch {
    return (_bytes, done) => done(Object.assign(new Error('closed'), { code: 'EBADF' }), 0)
  }
  return fileWriter(fd, write)
}

/** How a target is opened; a path is appended to. */
export type LogTarget = { readonly kind: 'fd'; readonly fd: number } | { readonly kind: 'file'; readonly path: string }

/**
 * Writes to a pipe up to this size are not mixed with another process's (POSIX: PIPE_BUF is 4,096 on Linux, 512 at
 * least).
 */
export const ATOMIC_WRITE_BYTES = 4_000

/**
 * @param maxBatchBytes lines written at once, in bytes; ATOMIC_WRITE_BYTES where several processes share the target
 * @throws only here, at the start, when a file cannot be opened for appending
 */
export function createLogOutput(
  target: LogTarget,
  maxBatchBytes: number = GATHER_MAX_BYTES,
  write: WriteToFile = fs.write,
): LogOutput {
  let fd = target.kind === 'fd' ? target.fd : fs.openSync(target.path, 'a', 0o640)
  let writer = writerFor(fd, write)
  // Another process's write may have ended half-way in the same file, on the same full disk.
  const isShared = maxBatchBytes <= ATOMIC_WRITE_BYTES
  /** The file may end in a part of a line. */
  let torn = false
  /** Oldest first; the last one still takes lines. */
  const batches: Batch[] = []
  let spare: Buffer | undefined
  let queuedBytes = 0
  let writing = false
  let dropped = 0
  let broken = false
  let scheduled = false
  let urgent = false
  const idle: (() => void)[] = []

  const settle = (): void => {
    for (const resolve of idle.splice(0)) resolve()
  }
  const batchFor = (line: string): Batch => {
    const last = batches.at(-1)
    if (last !== undefined && hasRoom(last, line)) return last
    const length = Buffer.byteLength(line) + 1
    const bytes =
      spare !== undefined && spare.length >= length ? spare : Buffer.allocUnsafeSlow(Math.max(length, maxBatchBytes))
    if (bytes === spare) spare = undefined
    const batch: Batch = { bytes, used: 0, lines: 0 }
    batches.push(batch)
    return batch
  }
  const schedule = (): void => {
    if (scheduled) return
    scheduled = true
    setTimeout(pump, GATHER_MS)
  }
  /**
   * Behind a write: what has gathered meanwhile is seldom worth another one yet. At once, it was one for every eight
   * requests.
   */
  const goOn = (): void => {
    if (idle.length > 0 || batches.length > 1 || queuedBytes >= GATHER_MAX_BYTES) pump()
    else if (batches.length > 0) schedule()
  }
  const pump = (): void => {
    scheduled = false
    urgent = false
    if (writing) return
    const batch = broken ? undefined : batches.shift()
    if (batch === undefined) {
      settle()
      return
    }
    queuedBytes -= batch.used
    writing = true
    const bytes = batch.bytes.subarray(0, batch.used)
    writer(torn ? Buffer.concat([LINE_END, bytes]) : bytes, (error, written) => {
      writing = false
      if (error === null) {
        torn = false
        if (batch.bytes.length === maxBatchBytes) spare = batch.bytes
        goOn()
        return
      }
      dropped += batch.lines
      torn = written > (torn ? 1 : 0) || isShared || (torn && written === 0)
      // A reader that is gone does not come back; a full disk may be emptied.
      if (target.kind === 'fd' && (error.code === 'EPIPE' || error.code === 'EBADF')) {
        broken = true
        for (const { lines } of batches.splice(0)) dropped += lines
        queuedBytes = 0
      }
      settle()
      if (!broken) setTimeout(pump, RETRY_MS).unref()
    })
  }

  return {
    write(line) {
      if (broken || queuedBytes + line.length > MAX_QUEUED_BYTES) {
        dropped++
        return
      }
      const batch = batchFor(line)
      const end = batch.used + batch.bytes.write(line, batch.used)
      batch.bytes[end] = NEWLINE
      queuedBytes += end + 1 - batch.used
      batch.used = end + 1
      batch.lines++
      if (writing) return
      if (queuedBytes >= GATHER_MAX_BYTES && !urgent) {
        urgent = true
        setImmediate(pump)
      }
      schedule()
    },
    dropped: () => dropped,
    reopen() {
      if (target.kind !== 'file') return
      try {
        const next = fs.openSync(target.path, 'a', 0o640)
        const old = fd
        fd = next
        writer = writerFor(next, write)
        torn = false
        // A write that is under way may still need the old one.
        setTimeout(() => fs.close(old, () => undefined), 1_000).unref()
      } catch {
        // The old file goes on being written: better under a rotated name than nowhere.
      }
    },
    flush(timeoutMs) {
      if (!writing && batches.length === 0) return Promise.resolve()
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
