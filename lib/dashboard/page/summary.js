// Third part: what is read first: models that are down, backends that are out and what to do, and which proxy this is.

/** A name of Azure's resources differs at its beginning and its end: the middle is what can go. @param {string} name */
function cutMiddle(name) {
  const most = 36
  if (name.length <= most) return name
  const head = Math.ceil((most - 1) / 2)
  return `${name.slice(0, head)}\u2026${name.slice(name.length - (most - 1 - head))}`
}

/** The sentence that says what to do, in the reader's language. @param {Row} row */
const todoOf = row => (row.advice === null ? '' : (sayIfKnown(`todo_${row.advice}`) ?? row.todo ?? ''))

/** Backends in trouble for one cause are one line. @param {Row} row */
const causeOf = row => JSON.stringify([row.state, row.reason, row.detail, row.advice])

/** @param {readonly Row[]} rows in the order in which they are to be read @returns {Row[][]} */
function byCause(rows) {
  /** @type {Map<string, Row[]>} */
  const groups = new Map()
  for (const row of rows) groups.set(causeOf(row), [...(groups.get(causeOf(row)) ?? []), row])
  return [...groups.values()]
}

/** `eastus2, sweden (gpt-4o)`: links to the rows, by model. @param {readonly Row[]} rows */
function links(rows) {
  /** @type {(Node | string)[]} */
  const parts = []
  for (const model of new Set(rows.map(row => row.model))) {
    for (const row of rows.filter(each => each.model === model)) {
      const link = make('a', '', row.backend)
      link.href = `#${rowId(row)}`
      parts.push(parts.length === 0 ? '' : ', ', link)
    }
    parts.push(` (${model})`)
  }
  return [...parts, ' ']
}

/**
 * "moody (gpt-4o) is out because ..., until ...", and what to do: the line a stranger reads first.
 * @param {readonly Row[]} rows of one cause @param {Row} row the first of them
 */
function outLine(rows, row) {
  const line = make('li')
  const state = shownState(row)
  line.dataset.state = state
  const mark = iconNode()
  icon(mark, state)
  const words = make('span')
  line.append(mark, words)
  words.append(...links(rows))
  const many = rows.length > 1
  // The next of them that may come back, and the one that has been out longest.
  const ends = rows.flatMap(({ until_ms }) => until_ms ?? [])
  const until = () => {
    if (ends.length === 0) return [say('sum_until_restored')]
    const at = Math.min(...ends)
    const left = at - now()
    const [before, after] = say(left > 0 ? 'sum_until' : 'sum_until_now', { wait: span(left) }).split('{time}')
    return [before ?? '', make('time', '', moment(at)), after ?? '']
  }
  if (row.state === 'throttled') {
    const [before, after] = say(many ? 'sum_throttled_many' : 'sum_throttled').split('{until}')
    words.append(before ?? '', ...until(), after ?? '')
  } else if (row.state === 'trial') words.append(say(many ? 'sum_on_trial_many' : 'sum_on_trial'))
  else {
    const why =
      row.reason === 'by_hand' ? say('sum_hand') : say('sum_because', { reason: because(row.reason, row.detail) })
    words.append(say(many ? 'sum_are_out' : 'sum_is_out'), zh ? '' : ' ', why, zh ? '' : ' ', ...until())
    const sinceMs = Math.min(...rows.flatMap(({ since_ms }) => since_ms ?? []))
    if (Number.isFinite(sinceMs)) words.append(make('b', '', say('sum_since', { age: span(now() - sinceMs) })))
  }
  const todo = todoOf(row)
  if (todo !== '' && row.reason !== 'by_hand') words.append(make('span', 'todo', todo))
  return line
}

/** @param {ShownState} state @param {string} text */
function noticeLine(state, text) {
  const line = make('li')
  line.dataset.state = state
  const mark = iconNode()
  icon(mark, state)
  line.append(mark, make('span', '', text))
  return line
}

/** @param {Row} row */
function lackLine(row) {
  const todo = sayIfKnown(`todo_${row.lack_advice}`) ?? row.lack_todo ?? ''
  const values = { backend: row.backend, model: row.model, what: row.lacks.join(', ') }
  const line = noticeLine('throttled', say('notice_lacks', values))
  line.lastElementChild?.append(make('span', 'todo', todo))
  return line
}

/** Whole days, or what `span` says of less than two. @param {number} ms */
const days = ms => (ms >= 172_800_000 ? say('days', { count: Math.floor(ms / 86_400_000) }) : span(ms))

/** A certificate that ends sooner is spoken of: time enough to renew it. */
const CERTIFICATE_WARNING_MS = 14 * 86_400_000
/** What is wrong with the proxy itself. @param {View} view */
function notices({ proxy, keys_ending, backends }) {
  const lines = []
  for (const row of backends.filter(({ lacks }) => lacks.length > 0).slice(0, MAX_OUT_LINES)) lines.push(lackLine(row))
  if (proxy.reload_failed !== null) {
    const { time_ms, problem } = proxy.reload_failed
    lines.push(
      noticeLine('ejected', say('notice_reload', { time: moment(time_ms), age: span(now() - time_ms), problem })),
    )
  }
  if (proxy.certificate_ends_ms !== null && proxy.certificate_ends_ms - now() < CERTIFICATE_WARNING_MS) {
    const over = proxy.certificate_ends_ms <= now()
    const time = moment(proxy.certificate_ends_ms)
    lines.push(
      over
        ? noticeLine('ejected', say('notice_certificate_over', { time }))
        : noticeLine('throttled', say('notice_certificate', { time, wait: days(proxy.certificate_ends_ms - now()) })),
    )
  }
  for (const { cert, kind, ends_ms } of proxy.certificates.slice(0, MAX_OUT_LINES)) {
    const over = ends_ms <= now()
    const words =
      kind === 'backend'
        ? over
          ? 'backend_certificate_over'
          : 'backend_certificate'
        : over
          ? 'file_certificate_over'
          : 'file_certificate'
    lines.push(
      noticeLine(
        over ? 'ejected' : 'throttled',
        say(words, { cert, time: moment(ends_ms), wait: days(ends_ms - now()) }),
      ),
    )
  }
  for (const { key, ends_ms } of keys_ending.slice(0, MAX_OUT_LINES))
    lines.push(noticeLine('throttled', say(ends_ms > now() ? 'key_ends' : 'key_ended', { key, time: moment(ends_ms) })))
  return lines
}

/** Models of which every backend is out: their requests fail. @param {readonly Row[]} backends */
function modelsDown(backends) {
  /** @type {Map<string, boolean>} */
  const down = new Map()
  for (const row of backends) down.set(row.model, (down.get(row.model) ?? true) && isOut(row))
  return [...down].filter(([, isDown]) => isDown).map(([model]) => model)
}

/** @param {View} view @returns {[tone: 'good' | 'warn' | 'bad', text: string]} */
function headline({ backends }) {
  const total = backends.length
  const down = modelsDown(backends)
  const out = backends.filter(isOut).length
  const throttled = backends.filter(row => row.state === 'throttled').length
  const trial = backends.filter(row => row.state === 'trial').length
  const unasked = backends.filter(row => !row.asked).length
  if (total === 0) return ['warn', say('sum_none')]
  if (down.length === 1) return ['bad', say('sum_down_one', { model: down[0] ?? '' })]
  if (down.length > 1) return ['bad', say('sum_down', { count: down.length, models: down.slice(0, 4).join(', ') })]
  if (out > 0) return ['bad', say(out === 1 ? 'sum_out_one' : 'sum_out', { count: out, total })]
  if (throttled > 0) return ['warn', say('sum_none_out', { count: throttled, total })]
  if (trial > 0) return ['warn', say('sum_trial', { count: trial, total })]
  if (unasked === total) return ['warn', say('sum_all_unasked', { total })]
  if (unasked > 0) return ['warn', say('sum_unasked', { count: unasked, total })]
  return ['good', say(total === 1 ? 'sum_all_one' : 'sum_all', { total })]
}

/** "All 5 backends are healthy, but the config was not reloaded": the first of what is wrong all the same. @param {View} view @param {string} plain */
function withBut({ backends, proxy, keys_ending }, plain) {
  const lacking = backends.filter(({ lacks }) => lacks.length > 0).length
  if (lacking === 1) return say('but_lacks_one', { plain })
  if (lacking > 1) return say('but_lacks', { plain, count: lacking })
  if (proxy.reload_failed !== null) return say('but_reload', { plain })
  const ends = [proxy.certificate_ends_ms, ...proxy.certificates.map(({ ends_ms }) => ends_ms)].flatMap(ms => ms ?? [])
  const first = Math.min(...ends)
  if (first <= now()) return say('but_certificate_over', { plain })
  if (first - now() < CERTIFICATE_WARNING_MS) return say('but_certificate', { plain })
  return keys_ending.length > 0 ? say('but_key', { plain }) : plain
}

const MAX_OUT_LINES = 6
let showsAllOut = false
byId('outs-more').addEventListener('click', () => {
  showsAllOut = true
  drawSoon()
})

/** Those of models that are down come first. @param {View} view */
function troubled({ backends }) {
  const down = new Set(modelsDown(backends))
  const out = backends.filter(isOut)
  return [
    ...out.filter(row => down.has(row.model)),
    ...out.filter(row => !down.has(row.model)),
    ...backends.filter(row => row.state === 'throttled'),
    ...backends.filter(row => row.state === 'trial'),
  ]
}

/** @param {View} view */
function drawSummary(view) {
  const [plainTone, text] = headline(view)
  const own = notices(view)
  const tone = plainTone === 'good' && own.length > 0 ? 'warn' : plainTone
  setAttr(byId('summary'), 'data-tone', tone)
  icon(byId('summary-icon'), tone === 'good' ? 'healthy' : tone === 'bad' ? 'ejected' : 'throttled')
  setText(byId('summary-title'), plainTone === 'good' ? withBut(view, text) : text)
  const all = troubled(view)
  const groups = byCause(all)
  const shown = groups.slice(0, showsAllOut ? groups.length : MAX_OUT_LINES)
  const lines = [...own, ...shown.flatMap(rows => (rows[0] === undefined ? [] : [outLine(rows, rows[0])]))]
  const list = byId('outs')
  // The same words again are not written again, so that they can be selected and are not read twice.
  if (list.textContent !== lines.map(line => line.textContent).join('')) list.replaceChildren(...lines)
  const hidden = groups.slice(shown.length).reduce((sum, rows) => sum + rows.length, 0)
  byId('outs-more').hidden = hidden === 0
  setText(byId('outs-more'), say('sum_more', { count: hidden }))
  const out = view.backends.filter(isOut).length
  document.title = (out > 0 ? `(${out}) ` : '') + say('title')
  drawAbout(view)
}

/** Which proxy this is: with several replicas, the one that has answered. @param {View} view */
function drawAbout({ proxy }) {
  const parts = [
    proxy.host,
    proxy.version,
    say('about_up', { uptime: span(now() - proxy.started_ms) }),
    proxy.workers > 1 ? say('about_workers', { count: proxy.workers }) : '',
    proxy.reloaded_ms === null ? '' : say('about_reloaded', { time: moment(proxy.reloaded_ms) }),
  ]
  setText(byId('about'), parts.filter(part => part !== '').join(' \u00b7 '))
}
