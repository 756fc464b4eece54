// The objects that a body names, and the containers that an answer shows.
import t from 'tap'
import { objectsIn } from '../../lib/handlers/named-objects.ts'
import { stateShownBy } from '../../lib/handlers/named-state.ts'

const idsIn = (body: string, cut = body.length): readonly string[] =>
  objectsIn([Buffer.from(body.slice(0, cut)), Buffer.from(body.slice(cut))].filter(({ length }) => length > 0)).map(
    ({ field, id }) => `${field} ${id}`,
  )

t.test('objects are found in the fields that name them, at any depth, wherever the chunks end', t => {
  const body = JSON.stringify({
    input: [{ content: [{ type: 'input_file', file_id: 'file-1' }, { text: 'say "file_id": "file-2"' }] }],
    tools: [
      { vector_store_ids: ['vs_1', 'vs_2'] },
      { container: { type: 'auto', file_ids: ['file-3'] } },
      { container: 'c' },
    ],
    metadata: { name: 'file-4' },
  })
  const expected = [
    'file_id file-1',
    'vector_store_ids vs_1',
    'vector_store_ids vs_2',
    'file_ids file-3',
    'container c',
  ]
  for (let cut = 0; cut <= body.length; cut++) t.same(idsIn(body, cut), expected)
  t.end()
})

t.test('names and ids are found in every spelling', t => {
  t.same(idsIn('{"file\\u005fid" : "file-\\u0031"}'), ['file_id file-1'])
  t.same(idsIn('{"training_file":"a","validation_file":"b","input_file_id":"c"}'), [
    'training_file a',
    'validation_file b',
    'input_file_id c',
  ])
  t.same(idsIn('{"file_id":null,"x":"file-1"}'), [])
  t.same(idsIn('{"input":"Hello"}'), [])
  t.end()
})

t.test('an answer shows the containers in which code ran', t => {
  const answer = JSON.stringify({
    id: 'resp_1',
    output: [{ type: 'code_interpreter_call', id: 'ci_12345678', container_id: 'cntr_1' }],
  })
  t.same(stateShownBy([Buffer.from(answer)], true).containers, ['cntr_1'])
  t.end()
})
