// A form as the simulated resource reads it: whole, and strictly. A reader of its own, so that what the proxy's scanner
// makes of a form is held against something else.

export interface FormPart {
  readonly name: string
  readonly filename: string | undefined
  readonly body: Buffer
}

/** The parts of a multipart/form-data body (RFC 7578), or undefined where it is none. */
export function parseForm(contentType: string, body: Buffer): readonly FormPart[] | undefined {
  const boundary = /^multipart\/form-data\s*;.*?boundary="?([^";]+)"?/i.exec(contentType)?.[1]
  if (boundary === undefined) return undefined
  const delimiter = Buffer.from(`\r\n--${boundary}`)
  const text = Buffer.concat([Buffer.from('\r\n'), body])
  const parts: FormPart[] = []
  let at = text.indexOf(delimiter)
  if (at === -1) return undefined
  for (;;) {
    const after = at + delimiter.length
    const mark = text.toString('latin1', after, after + 2)
    if (mark === '--') return parts
    const end = text.indexOf(delimiter, after)
    const headEnd = text.indexOf('\r\n\r\n', after)
    if (mark !== '\r\n' || end === -1 || headEnd === -1 || headEnd > end) return undefined
    const head = text.toString('utf8', after + 2, headEnd)
    const disposition = /^content-disposition:\s*form-data;(.*)$/im.exec(head)?.[1] ?? ''
    const name = /(?:^|[;\s])name="((?:[^"\\]|\\.)*)"/i.exec(disposition)?.[1]
    const filename = /filename="((?:[^"\\]|\\.)*)"/i.exec(disposition)?.[1]
    if (name === undefined) return undefined
    parts.push({ name, filename, body: text.subarray(headEnd + 4, end) })
    at = end
  }
}

/** A form's text fields as an object; the last of a repeated name counts. */
export function formFields(parts: readonly FormPart[]): Readonly<Record<string, unknown>> {
  return Object.fromEntries(
    parts.filter(({ filename }) => filename === undefined).map(({ name, body }) => [name, body.toString('utf8')]),
  )
}
