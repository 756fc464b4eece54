// The first bytes of a good answer: a page, perhaps an error object alone, or an answer, however they are cut.
import t from 'tap'
import { beginningOfAnswer } from '../../lib/forward/answer-beginning.ts'

const PAGES = [
  '<!doctype html><title>Sign in</title>',
  '<!DOCTYPE  HTML PUBLIC "-//W3C//DTD HTML 4.01//EN">',
  '\r\n  <html lang="en">',
  '<HTML><head>',
  '\uFEFF<html>',
  '<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN">',
]
const PERHAPS_ERRORS = [
  '{"error":{"message":"overloaded"}}',
  '{ "error" : "overloaded" }',
  '\uFEFF\n{"error":null,"choices":[]}',
  '{"type":"error","error":{"type":"overloaded_error"}}',
  '{"object":"error","message":"x","error":1}',
  '{"statusCode":500,"message":"Internal server error"}',
  '{"detail":"Internal Server Error"}',
  '{"errors":[{"message":"overloaded"}]}',
]
const ANSWERS = [
  '{"id":"chatcmpl-1","choices":[],"error":null}',
  '{"choices":[]}',
  '{"errored":[]}',
  '{"details":[]}',
  '{}',
  '[1]',
  '"text"',
  'ID3 sound',
  ' ',
  '{"ob\\u006aect":"list"}',
  `{"object":"list","data":[{"embedding":"${'A'.repeat(300)}`,
  '<speak>hello</speak>',
  '<htmlish>',
]

for (const [meaning, texts] of [
  ['page', PAGES],
  ['perhaps_error', PERHAPS_ERRORS],
  ['answer', ANSWERS],
] as const) {
  t.test(`${meaning}: known from its beginning, and from no part of it as something else`, async t => {
    for (const text of texts) {
      const bytes = Buffer.from(text)
      t.equal(beginningOfAnswer([bytes]), meaning, text)
      for (let at = 1; at < bytes.length; at++) {
        const seen = beginningOfAnswer([bytes.subarray(0, at)])
        if (bytes.subarray(0, at).toString().trim() === '') continue
        if (seen !== 'unknown' && seen !== meaning) t.fail(`${text} at ${at}: ${seen}`)
        t.equal(beginningOfAnswer([bytes.subarray(0, at), bytes.subarray(at)]), meaning)
      }
    }
  })
}

t.test('blanks alone are passed on: they keep a connection alive while the answer is made', async t => {
  t.equal(beginningOfAnswer([Buffer.from('\n\n ')]), 'answer')
})

t.test('what could still become a page or an error is waited for, 256 bytes at most', async t => {
  t.equal(beginningOfAnswer([Buffer.from('{"err')]), 'unknown')
  t.equal(beginningOfAnswer([Buffer.from('<!doc')]), 'unknown')
  t.equal(beginningOfAnswer([Buffer.from('{"object":"list"')]), 'unknown')
  t.equal(beginningOfAnswer([Buffer.from(`<?xml ${'x'.repeat(300)}`)]), 'answer')
})
