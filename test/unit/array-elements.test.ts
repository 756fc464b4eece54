// The elements of a JSON array as places in its bytes, and an array without some of them.
import t from 'tap'
import { arrayElements, withoutElements } from '../../lib/body/array-elements.ts'

function without(text: string, gone: readonly number[]): unknown {
  const bytes = Buffer.from(text)
  const ranges = withoutElements(arrayElements(bytes, 100), new Set(gone))
  let out = ''
  let at = 0
  for (const { start, end } of ranges) {
    out += text.slice(at, start)
    at = end
  }
  return JSON.parse(out + text.slice(at))
}

t.test('elements are found whatever brackets, quotes and commas stand in them', t => {
  const values = [{ a: '],{"\\"' }, [1, [2, { b: [] }]], 'x,y', 3, null, {}]
  const text = JSON.stringify(values)
  const bytes = Buffer.from(text)
  t.same(
    arrayElements(bytes, 100).map(({ start, end }) => JSON.parse(bytes.toString('utf8', start, end))),
    values,
  )
  t.same(arrayElements(Buffer.from('[ ]'), 100), [])
  t.equal(arrayElements(bytes, 2).length, 2)
  t.end()
})

t.test('what is left after taking elements out is the array of the others', t => {
  const values = [{ n: 0 }, { n: 1 }, { n: 2 }, { n: 3 }]
  for (const text of [JSON.stringify(values), JSON.stringify(values, null, 2)]) {
    for (let mask = 0; mask < 16; mask++) {
      const gone = [0, 1, 2, 3].filter(i => (mask >> i) & 1)
      t.same(
        without(text, gone),
        values.filter(({ n }) => !gone.includes(n)),
        `without ${gone.join()}`,
      )
    }
  }
  t.end()
})
