// The grammar of JSON (RFC 8259) as one table: what each byte does in each state. It must not know what the bytes are
// wanted for; json-scan.ts drives it. A table, because every state then survives the end of a chunk by itself and a
// byte costs one lookup, however odd the text.

// The states of the grammar (RFC 8259). All but IN_STRING are rows of STEP.
export const START = 0
const BOM_1 = 1
const BOM_2 = 2
const LEAD = 3
const VALUE = 4
export const FIRST_VALUE = 5
export const FIRST_KEY = 6
export const KEY = 7
export const COLON = 8
export const AFTER_MEMBER = 9
export const AFTER_ELEMENT = 10
export const DONE = 11
const MINUS = 12
const ZERO = 13
const DIGITS = 14
const POINT = 15
const FRACTION = 16
const EXPONENT = 17
const EXPONENT_SIGN = 18
const EXPONENT_DIGITS = 19
// The rest of true, false and null, a state a letter.
const T_RUE = 20
const F_ALSE = 23
const N_ULL = 27
const STATES = 30
export const IN_STRING = 30
export const FAILED = 31

// What a byte does that is more than a change of state.
export const FIRST_ACTION = 32
export const BAD = 32
export const OPEN_OBJECT = 33
export const OPEN_ARRAY = 34
export const CLOSE = 35
export const STRING = 36
export const BEGIN_SCALAR = 37
export const END_NUMBER = 38
const END_LITERAL = 39

/** STEP[state << 8 | byte] is the next state when below FIRST_ACTION, else an action. */
export const STEP = grammar()
/** The state that the first byte of a number or literal leads to. */
export const SCALAR_STATE = scalarStarts()
/** What such a byte begins, numbers left out. */
export const SCALAR_KIND: { readonly [byte: number]: 'true' | 'false' | 'null' } = {
  116: 'true',
  102: 'false',
  110: 'null',
}

function grammar(): Uint8Array {
  const table = new Uint8Array(STATES << 8).fill(BAD)
  const on = (state: number, bytes: string, step: number) => {
    for (const byte of Buffer.from(bytes, 'latin1')) table[(state << 8) | byte] = step
  }
  const blank = ' \t\r\n'
  const digit = '0123456789'
  on(START, blank, LEAD)
  on(START, '\xef', BOM_1)
  on(BOM_1, '\xbb', BOM_2)
  on(BOM_2, '\xbf', LEAD)
  for (const state of [LEAD, VALUE, FIRST_VALUE, FIRST_KEY, KEY, COLON, AFTER_MEMBER, AFTER_ELEMENT, DONE]) {
    on(state, blank, state)
  }
  for (const state of [START, LEAD, VALUE, FIRST_VALUE]) on(state, '{', OPEN_OBJECT)
  for (const state of [VALUE, FIRST_VALUE]) {
    on(state, '[', OPEN_ARRAY)
    on(state, '"', STRING)
    on(state, `-${digit}tfn`, BEGIN_SCALAR)
  }
  on(FIRST_VALUE, ']', CLOSE)
  on(FIRST_KEY, '}', CLOSE)
  on(AFTER_MEMBER, '}', CLOSE)
  on(AFTER_ELEMENT, ']', CLOSE)
  for (const state of [FIRST_KEY, KEY]) on(state, '"', STRING)
  on(COLON, ':', VALUE)
  on(AFTER_MEMBER, ',', KEY)
  on(AFTER_ELEMENT, ',', VALUE)

  for (const state of [ZERO, DIGITS, FRACTION, EXPONENT_DIGITS]) on(state, `${blank},]}`, END_NUMBER)
  on(MINUS, digit, DIGITS)
  on(MINUS, '0', ZERO)
  on(DIGITS, digit, DIGITS)
  for (const state of [ZERO, DIGITS]) on(state, '.', POINT)
  for (const state of [POINT, FRACTION]) on(state, digit, FRACTION)
  for (const state of [ZERO, DIGITS, FRACTION]) on(state, 'eE', EXPONENT)
  on(EXPONENT, '+-', EXPONENT_SIGN)
  for (const state of [EXPONENT, EXPONENT_SIGN, EXPONENT_DIGITS]) on(state, digit, EXPONENT_DIGITS)

  const literals: readonly (readonly [number, string])[] = [
    [T_RUE, 'rue'],
    [F_ALSE, 'alse'],
    [N_ULL, 'ull'],
  ]
  for (const [first, letters] of literals) {
    for (const [index, letter] of [...letters].entries()) {
      on(first + index, letter, index === letters.length - 1 ? END_LITERAL : first + index + 1)
    }
  }
  return table
}

function scalarStarts(): Uint8Array {
  const table = new Uint8Array(256)
  for (const byte of Buffer.from('123456789')) table[byte] = DIGITS
  for (const [byte, state] of Object.entries({ '-': MINUS, 0: ZERO, t: T_RUE, f: F_ALSE, n: N_ULL })) {
    table[byte.charCodeAt(0)] = state
  }
  return table
}

/** What was expected where a text stopped being JSON, for people. */
export function faultOf(state: number): string {
  if (state <= LEAD) return 'the text is no object'
  if (state === KEY || state === FIRST_KEY) return 'a name in quotes is expected'
  if (state === COLON) return 'a colon is expected'
  if (state === AFTER_MEMBER) return 'a comma or } is expected'
  if (state === AFTER_ELEMENT) return 'a comma or ] is expected'
  if (state === DONE) return 'something follows the object'
  if (state === VALUE || state === FIRST_VALUE) return 'a value is expected'
  return state < T_RUE ? 'a number is malformed' : 'a literal other than true, false and null'
}
