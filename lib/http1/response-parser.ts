// Reads responses off a connection's bytes, one after the other: heads, and bodies without their framing (RFC 9112
// sections 6 and 7). Knows no sockets. The bytes of a body in one read of the socket come out as one piece. An event
// stream sends each event as a chunk of its own; two hundred of them one by one cost eight times as much. What it is
// given may lie in memory that the next read writes over: it keeps and hands out copies.

import type { LowerCaseNames } from './header-names.ts'
import { faultOfPart, parseHead, type ResponseFault, type ResponseHead } from './response-head.ts'

/** What a reader tells, in this order: head, any number of pieces, end. */
export interface ParserEvents {
  head(head: ResponseHead): void
  /** The piece is the listener's own: a copy. */
  body(bytes: Buffer): void
  /** @param reusable nothing came behind the response, and its framing does not need the connection to close */
  end(reusable: boolean): void
  /** 101: what follows is no HTTP. */
  switched(head: ResponseHead, rest: Buffer): void
}

/**
 * A response's head beyond this is an error of the far side. Four times Node's own default: servers and gateways repeat
 * a request in a header of their refusal, and a request's own head has 32 KB.
 */
const MAX_HEAD_BYTES = 64 * 1024
/**
 * 100, 102 and 103 may come before a response for as long as its time limit lets them. A slow server sends a 102 every
 * few seconds (RFC 2518 section 10.1). All of their heads together; nobody sends a hundredth of this.
 */
const MAX_INTERIM_BYTES = 1024 * 1024
/** Hexadecimal digits of a chunk's size: fifteen petabytes. */
const MAX_SIZE_DIGITS = 13
/** Chunk extensions and trailers, per chunk and per response: nobody uses them, and they are thrown away. */
const MAX_EXTRA_BYTES = 4 * 1024

const HEAD_END = '\r\n\r\n'
const CR = 0x0d
const LF = 0x0a

/** Where in the bytes it stands. */
const IDLE = 0
const HEAD = 1
const LENGTH = 2
const UNTIL_CLOSE = 3
const SIZE = 4
const EXTENSION = 5
const SIZE_LF = 6
const DATA = 7
const DATA_CR = 8
const DATA_LF = 9
const TRAILER = 10
const TRAILER_LINE = 11
const TRAILER_LF = 12
const LAST_LF = 13

/** The value of a hexadecimal digit, or -1. */
function digitOf(byte: number): number {
  if (byte >= 0x30 && byte <= 0x39) return byte - 0x30
  const lower = byte | 0x20
  return lower >= 0x61 && lower <= 0x66 ? lower - 0x57 : -1
}

/** A class: one for every connection, and its fields change with every byte that matters. */
export class ResponseParser {
  private readonly events: ParserEvents
  private readonly names: LowerCaseNames
  private state = IDLE
  private bodiless = false
  private maySwitch = false
  private interimBytes = 0
  /** The beginning of a head that has not come whole. */
  private carry: Buffer | undefined
  /** Bytes left of the body or the chunk; while a size is read, the size so far. */
  private left = 0
  private digits = 0
  private extra = 0
  /** Bytes of the current response that have come, its head's included. */
  private seen = 0

  constructor(events: ParserEvents, names: LowerCaseNames) {
    this.events = events
    this.names = names
  }

  /** The next bytes are the response to this request. */
  expect({ bodiless, maySwitch }: { readonly bodiless: boolean; readonly maySwitch: boolean }): void {
    this.state = HEAD
    this.bodiless = bodiless
    this.maySwitch = maySwitch
    this.interimBytes = 0
    this.seen = 0
    this.carry = undefined
  }

  /** Nothing of the response is wanted any more. */
  stop(): void {
    this.state = IDLE
    this.carry = undefined
  }

  /** Whether any byte of the response has come. */
  begun(): boolean {
    return this.seen > 0
  }

  /**
   * Takes what the socket brought, and may write in it until it returns. @returns what is wrong with it, if anything
   */
  push(bytes: Buffer): ResponseFault | undefined {
    this.seen += bytes.length
    if (this.state === HEAD) return this.pushHead(bytes)
    return this.pushBody(bytes, 0)
  }

  /** The connection's end has come. @returns whether the response was whole */
  close(): boolean {
    if (this.state !== UNTIL_CLOSE) return this.state === IDLE
    this.state = IDLE
    this.events.end(false)
    return true
  }

  private pushHead(given: Buffer): ResponseFault | undefined {
    const bytes = this.carry === undefined ? given : Buffer.concat([this.carry, given])
    this.carry = undefined
    let at = 0
    for (;;) {
      const end = bytes.indexOf(HEAD_END, at, 'latin1')
      // Its end may have come in part: the same bytes must mean the same wherever they were cut.
      if ((end === -1 ? bytes.length - HEAD_END.length + 1 : end) - at > MAX_HEAD_BYTES) return 'head_too_large'
      if (end === -1) {
        const fault = faultOfPart(bytes.toString('latin1', at))
        if (fault !== undefined) return fault
        // What was joined with an earlier piece is a copy already.
        this.carry = bytes === given ? Buffer.from(bytes.subarray(at)) : bytes.subarray(at)
        return undefined
      }
      const head = parseHead(bytes, { start: at, stop: end }, this.bodiless, this.names)
      if (typeof head === 'string') return head
      const headBytes = end - at
      at = end + HEAD_END.length
      if (head.status === 101) {
        if (!this.maySwitch) return 'unasked_upgrade'
        this.state = IDLE
        this.events.switched(head, Buffer.from(bytes.subarray(at)))
        return undefined
      }
      if (head.status >= 200) return this.beginBody(head, bytes, at)
      this.interimBytes += HEAD_END.length + headBytes
      if (this.interimBytes > MAX_INTERIM_BYTES) return 'too_many_interim_answers'
    }
  }

  private beginBody(head: ResponseHead, bytes: Buffer, at: number): ResponseFault | undefined {
    const { framing } = head
    switch (framing.kind) {
      case 'none':
        this.left = 0
        this.state = LENGTH
        break
      case 'length':
        this.left = framing.bytes
        this.state = LENGTH
        break
      case 'chunked':
        this.left = this.digits = this.extra = 0
        this.state = SIZE
        break
      case 'until_close':
        this.state = UNTIL_CLOSE
    }
    this.events.head(head)
    return this.pushBody(bytes, at)
  }

  private pushBody(bytes: Buffer, at: number): ResponseFault | undefined {
    if (this.state === IDLE) return undefined
    if (this.state === UNTIL_CLOSE) {
      if (at < bytes.length) this.events.body(Buffer.from(bytes.subarray(at)))
      return undefined
    }
    if (this.state !== LENGTH) return this.pushChunks(bytes, at)
    const end = Math.min(bytes.length, at + this.left)
    this.left -= end - at
    if (end > at) this.events.body(Buffer.from(bytes.subarray(at, end)))
    if (this.left === 0) this.finish(end === bytes.length)
    return undefined
  }

  /** The listener may have had enough meanwhile. */
  private finish(reusable: boolean): void {
    if (this.state === IDLE) return
    this.state = IDLE
    this.events.end(reusable)
  }

  /**
   * Takes the framing out of the bytes, in place: the data of the chunks moves together, so that it is one piece.
   */
  private pushChunks(bytes: Buffer, start: number): ResponseFault | undefined {
    const { length } = bytes
    let at = start
    let from = start
    let to = start
    let over = false
    while (at < length && !over) {
      if (this.state === DATA) {
        const next = Math.min(length, at + this.left)
        if (to === from) {
          from = at
          to = next
        } else {
          bytes.copyWithin(to, at, next)
          to += next - at
        }
        this.left -= next - at
        at = next
        if (this.left === 0) this.state = DATA_CR
        continue
      }
      const byte = bytes[at++] ?? 0
      switch (this.state) {
        case SIZE: {
          const digit = digitOf(byte)
          if (digit !== -1 && this.digits < MAX_SIZE_DIGITS) {
            this.left = this.left * 16 + digit
            this.digits++
          } else if (this.digits === 0 || digit !== -1) return this.broken(bytes, from, to)
          else if (byte === CR) this.state = SIZE_LF
          else if (byte === 0x3b || isBlank(byte)) this.state = EXTENSION
          else return this.broken(bytes, from, to)
          break
        }
        case EXTENSION:
          if (byte === CR) this.state = SIZE_LF
          else if (byte === LF || ++this.extra > MAX_EXTRA_BYTES) return this.broken(bytes, from, to)
          break
        case SIZE_LF:
          if (byte !== LF) return this.broken(bytes, from, to)
          this.digits = 0
          this.state = this.left === 0 ? TRAILER : DATA
          break
        case DATA_CR:
          if (byte !== CR) return this.broken(bytes, from, to)
          this.state = DATA_LF
          break
        case DATA_LF:
          if (byte !== LF) return this.broken(bytes, from, to)
          this.extra = 0
          this.state = SIZE
          break
        case TRAILER:
          if (byte === CR) this.state = LAST_LF
          else if (byte === LF || ++this.extra > MAX_EXTRA_BYTES) return this.broken(bytes, from, to)
          else this.state = TRAILER_LINE
          break
        case TRAILER_LINE:
          if (byte === CR) this.state = TRAILER_LF
          else if (byte === LF || ++this.extra > MAX_EXTRA_BYTES) return this.broken(bytes, from, to)
          break
        case TRAILER_LF:
          if (byte === LF) this.state = TRAILER
          else return this.broken(bytes, from, to)
          break
        default:
          if (byte === LF) over = true
          else return this.broken(bytes, from, to)
      }
    }
    if (to > from) this.events.body(Buffer.from(bytes.subarray(from, to)))
    if (over) this.finish(at === length)
    return undefined
  }

  /** The bytes before a fault are emitted, so that the result does not depend on how reads were split. */
  private broken(bytes: Buffer, from: number, to: number): ResponseFault {
    if (to > from) this.events.body(Buffer.from(bytes.subarray(from, to)))
    return 'bad_chunk'
  }
}

function isBlank(byte: number): boolean {
  return byte === 0x20 || byte === 0x09
}
