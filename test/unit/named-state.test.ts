// The ids that an answer of the Responses API shows, whatever their length: each item belongs to the key that had it
// made.
import t from 'tap'
import { shownByEvents, stateShownBy } from '../../lib/handlers/named-state.ts'

const LONG = `rs_${'0a'.repeat(25)}`
const ANSWER = {
  id: 'resp_1',
  output: [
    { id: LONG, type: 'reasoning', summary: [] },
    { id: 'fc_1', call_id: 'call_9', type: 'function_call', arguments: '{"id":"conv_7"}' },
    { id: 'msg_a', type: 'message', content: [{ type: 'output_text', text: '"id":"rs_x"' }] },
    { id: 'no-item', type: 'message' },
  ],
  conversation: { id: 'conv_2' },
}

t.test('items of a whole answer are seen, short ids and long ones, and no ids of other kinds', async t => {
  for (const text of [JSON.stringify(ANSWER), JSON.stringify(ANSWER, null, 2)]) {
    const shown = stateShownBy([Buffer.from(text)], true)
    t.equal(shown.response, 'resp_1')
    t.same(shown.items, [LONG, 'fc_1', 'msg_a'])
    t.same(stateShownBy([Buffer.from(text)], false).items, [], 'what is not stored cannot be named')
  }
})

t.test('items of a stream are seen as they are added and done', async t => {
  const event = (value: object): Buffer => Buffer.from(`data: ${JSON.stringify(value)}\n\n`)
  const added = event({ type: 'response.output_item.added', item: { id: 'msg_1', type: 'message', content: [] } })
  t.same(shownByEvents(added, true)?.items, ['msg_1'])
  t.equal(shownByEvents(event({ type: 'response.output_text.delta', item_id: 'msg_1', delta: 'id' }), true), undefined)
})
