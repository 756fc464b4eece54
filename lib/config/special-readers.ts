// biome-ignore-all lint/suspicious/noTemplateCurlyInString: ${…} is the syntax of the config here
// Parts of single options' readers: what is wrong with a pasted key, and a number or the word auto.
import { describe, type Reader, valueReader, whole } from './readers.ts'

/** What is wrong with a pasted key, and what to do; shows nothing of it. */
export function keyCure(key: string): string | undefined {
  if (/^bearer\s/i.test(key)) return 'write it without the word Bearer: the proxy adds that'
  if (/^[\w-]+:\s/.test(key)) return 'it begins with the name of a header: write the value alone'
  if (/^["'\u201c\u201d\u2018\u2019]/.test(key)) return 'quotes are a part of it: write plain ones around it, or none'
  if (/\{\{.*\}\}/.test(key)) return 'a variable is written ${NAME} here'
  if (key !== key.trim()) return 'it begins or ends with a blank: remove that'
  if (/\s/.test(key)) return 'it holds a blank: was more than the key copied?'
  return 'it holds a character that no key has: copy it once more'
}

/** `auto`, or a whole number from 1. */
export function workersOrAuto(max: number): Reader<number | 'auto'> {
  const allowed = `auto or a whole number from 1 to ${max}`
  return valueReader(allowed, (node, report) => {
    if (node.value === 'auto') return 'auto'
    // A word can only have meant this one.
    if (typeof node.value === 'string' && !/\d/.test(node.value) && !node.inserted) {
      report.problem(node, `must be ${allowed}, not ${describe(node)}`)
      return undefined
    }
    return whole(1, max).read(node, report)
  })
}
