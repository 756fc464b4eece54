// Output of the simulated model where a prompt, not the API, says its form, as instructor's JSON modes do.
import t from 'tap'
import { outputOf } from '../../lib/simulator/structured.ts'

const SCHEMA = '{"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}'
const INSTANCE = '{"name":"x","age":1}'
const ask = (content: unknown): readonly unknown[] => [
  { role: 'system', content },
  { role: 'user', content: 'Jason, 25' },
]

t.test('a JSON object is an instance of the schema in the prompt', t => {
  const body = { response_format: { type: 'json_object' } }
  const prompt = `Match {this} json_schema:\n\n${SCHEMA}\n\nReturn an instance.`
  t.same(outputOf(body, ask(prompt)), { kind: 'json', text: INSTANCE })
  t.same(outputOf(body, ask([{ type: 'text', text: prompt }])), { kind: 'json', text: INSTANCE })
  t.same(outputOf(body, ask('Any JSON.')), { kind: 'json', text: '{"answer":"x"}' })
  t.end()
})

t.test('so is the code block that a prompt asks for', t => {
  const prompt = `${SCHEMA}\nReturn it within a \`\`\`json codeblock.`
  t.same(outputOf({}, ask(prompt)), { kind: 'json', text: `\`\`\`json\n${INSTANCE}\n\`\`\`` })
  t.same(outputOf({}, ask(SCHEMA)), { kind: 'words' }, 'a schema alone asks for nothing')
  t.end()
})

t.test('text that only looks like a schema is none', t => {
  for (const prompt of ['{"properties"', '{"properties": 1} ```json', `${'{'.repeat(200)}"properties" \`\`\`json`]) {
    t.same(outputOf({}, ask(prompt)), { kind: 'words' })
  }
  t.end()
})
