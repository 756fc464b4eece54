// Fourth part: the totals, the table of backends and its filter.

/** @type {[Word, Word, (totals: View['totals']) => string, ((history: StepHistory) => Series)?][]} */
const TOTAL_FIGURES = [
  ['rate', 'over_1', t => rate(t.requests_per_s), h => [h.requests, h.errors, perSecond]],
  ['errors', 'over_5', t => share(t.error_share)],
  ['in_flight', 'now', t => count(t.in_flight)],
  ['first_byte', 'over_5', t => `${millis(t.ttfb_p50_ms)} / ${millis(t.ttfb_p95_ms)}`],
  ['tokens', 'over_1', t => count(t.tokens_per_min), h => [h.tokens, [], perSecond]],
  ['cached', 'over_5', t => share(t.cached_share)],
]
const TOTALS = TOTAL_FIGURES.map(([name, over, text, series]) => {
  const box = make('div')
  const figure = make('dd')
  const chart = series === undefined ? null : sparkNode()
  box.append(make('dt', '', say(name)), figure, make('dd', 'over', say(over)))
  if (chart !== null) box.append(chart)
  byId('totals').append(box)
  return { figure, chart, text, series }
})

/** @param {View} view */
function drawTotals({ totals }) {
  const history = view.histories.get(TOTAL)
  if (history === undefined) return
  for (const { figure, chart, text, series } of TOTALS) {
    setText(figure, text(totals))
    if (chart !== null && series !== undefined) spark(chart, ...series(history))
  }
}

/** @param {Word} name */
function roomRow(name) {
  const label = make('span', '', say(name))
  const bar = make('span', 'bar')
  const fill = make('i')
  const value = make('b')
  bar.append(fill)
  bar.setAttribute('aria-hidden', 'true')
  return { nodes: [label, bar, value], bar, fill, value }
}
/** @param {ReturnType<typeof roomRow>} room @param {number | null} remaining @param {number | null} limit */
function fillRoom({ nodes, bar, fill, value }, remaining, limit) {
  for (const node of nodes) node.hidden = remaining === null
  if (remaining === null) return
  const part = limit === null || limit <= 0 ? null : Math.min(Math.max(remaining / limit, 0), 1)
  fill.style.width = part === null ? '0' : `${part * 100}%`
  bar.hidden = part === null
  bar.className = part === null || part > 0.2 ? 'bar' : part > 0 ? 'bar low' : 'bar none'
  setText(value, part === null ? count(remaining) : `${Math.round(part * 100)}%`)
  value.title = count(remaining) + (limit === null ? '' : ` / ${count(limit)}`)
}

/** @param {boolean} withSpark */
function figureCell(withSpark) {
  const cell = make('td', 'n')
  const box = make('div', 'figure')
  const words = make('div')
  const main = make('span')
  const small = make('small')
  words.append(main, small)
  const chart = withSpark ? sparkNode() : null
  if (chart !== null) box.append(chart)
  box.append(words)
  cell.append(box)
  return { cell, main, small, chart }
}

/** @param {Row} row */
function makeRow(row) {
  const node = make('tr', 'row')
  const name = make('th')
  name.scope = 'row'
  name.title = row.backend
  node.id = rowId(row)
  const place = make('span', 'sub')
  name.append(cutMiddle(row.backend), place)
  const mark = iconNode()
  const word = make('b')
  const why = make('span', 'why')
  const words = make('div')
  words.append(word, why)
  const state = make('div', 'state')
  state.append(mark, words)
  const stateCell = make('td')
  stateCell.append(state)
  const plain = () => make('td', 'n')
  const inFlight = plain()
  const tokens = plain()
  const cached = plain()
  const requests = figureCell(true)
  const errors = figureCell(false)
  const first = figureCell(true)
  const room = make('div', 'room')
  const roomNone = make('span', 'note', NOTHING)
  const roomRequests = roomRow('left_requests')
  const roomTokens = roomRow('left_tokens')
  room.append(...roomRequests.nodes, ...roomTokens.nodes)
  const roomCell = make('td')
  roomCell.append(room, roomNone)
  const acts = make('div', 'acts')
  /** @param {'eject' | 'restore'} action */
  const button = action => {
    const made = make('button', '', say(action))
    made.type = 'button'
    made.setAttribute('aria-label', say(`${action}_named`, { backend: row.backend, model: row.model }))
    made.addEventListener('click', () => {
      if (made.getAttribute('aria-disabled') !== 'true') askSteer(action, row.model, row.backend)
    })
    acts.append(made)
    return made
  }
  const eject = button('eject')
  const restore = button('restore')
  const actsCell = make('td')
  actsCell.append(acts)
  node.append(name, stateCell, inFlight, requests.cell, errors.cell, first.cell, tokens, cached, roomCell, actsCell)
  return {
    node,
    place,
    mark,
    word,
    why,
    inFlight,
    requests,
    errors,
    first,
    tokens,
    cached,
    room,
    roomNone,
    roomRequests,
    roomTokens,
    eject,
    restore,
  }
}

/** @param {Row} row */
function whyText(row) {
  if (row.state === 'healthy') return row.asked ? '' : say('unasked_help')
  if (row.state === 'trial') return say('trial_help')
  const parts = []
  if (row.state === 'ejected' && row.reason !== 'by_hand') parts.push(because(row.reason, row.detail))
  if (row.until_ms === null) parts.push(say('until_restored'))
  else {
    const left = row.until_ms - now()
    parts.push(
      say('until', { time: moment(row.until_ms) }) +
        ' · ' +
        (left > 0 ? say('left', { wait: span(left) }) : say('due')),
    )
  }
  const todo = todoOf(row)
  if (todo !== '' && row.reason !== 'by_hand') parts.push(todo)
  return parts.join('\n')
}

/** @param {ReturnType<typeof makeRow>} refs @param {Row} row */
function drawRow(refs, row) {
  refs.node.hidden = !isShown(row)
  const state = shownState(row)
  setAttr(refs.node, 'data-state', state)
  icon(refs.mark, state)
  const isUnasked = state === 'healthy' && !row.asked
  setText(refs.word, say(isUnasked ? 'unasked' : state === 'hand' ? 'by_hand' : state))
  setAttr(refs.node, 'data-asked', String(!isUnasked))
  const lacks = row.lacks.length > 0 ? say('lacks', { what: row.lacks.join(', ') }) : ''
  setText(refs.why, [whyText(row), lacks].filter(Boolean).join('\n'))
  setText(refs.place, say('place', { tier: row.tier, weight: row.weight }))
  setText(refs.inFlight, count(row.in_flight))
  const history = view.histories.get(nameOf(row))
  setText(refs.requests.main, rate(row.requests_per_s))
  if (history !== undefined && refs.requests.chart !== null)
    spark(refs.requests.chart, history.requests, history.errors, perSecond)
  setText(refs.errors.main, share(row.error_share))
  refs.errors.cell.classList.toggle('hot', row.error_share !== null && row.error_share >= 0.05)
  setText(refs.errors.small, row.throttled_share ? say('throttled_share', { share: share(row.throttled_share) }) : '')
  setText(refs.first.main, millis(row.ttfb_p50_ms))
  setText(refs.first.small, row.ttfb_p95_ms === null ? '' : millis(row.ttfb_p95_ms))
  if (history !== undefined && refs.first.chart !== null) spark(refs.first.chart, history.ttfb_p50_ms, null, atMost)
  setText(refs.tokens, count(row.tokens_per_min))
  setText(refs.cached, share(row.cached_share))
  const room = row.headroom
  fillRoom(refs.roomRequests, room?.remaining_requests ?? null, room?.limit_requests ?? null)
  fillRoom(refs.roomTokens, room?.remaining_tokens ?? null, room?.limit_tokens ?? null)
  refs.roomNone.hidden = (room?.remaining_requests ?? room?.remaining_tokens ?? null) !== null
  setAttr(refs.eject, 'aria-disabled', String(state === 'hand'))
  setAttr(refs.restore, 'aria-disabled', String(state === 'healthy'))
}

/** More backends are too many to look through: then there is a filter, and trouble comes first. */
const MANY = 8
const filterText = () => byId('filter-backends').value.trim().toLowerCase()
/** @param {Row} row */
const isTrouble = row => row.state !== 'healthy'
/** @param {Row} row */
function isShown(row) {
  if (byId('filter-trouble').checked && !isTrouble(row)) return false
  const wanted = filterText()
  return wanted === '' || `${row.model} ${row.backend} ${row.reason ?? ''}`.toLowerCase().includes(wanted)
}
byId('filter-backends').addEventListener('input', drawSoon)
byId('filter-trouble').addEventListener('change', drawSoon)

/** The config's order; of many, those with trouble first. @param {readonly Row[]} backends */
function ordered(backends) {
  if (backends.length <= MANY) return backends
  const gravity = { ejected: 0, trial: 1, throttled: 2, healthy: 3 }
  /** @type {Map<string, number>} */
  const worst = new Map()
  for (const row of backends) worst.set(row.model, Math.min(worst.get(row.model) ?? 3, gravity[row.state]))
  return [...backends].sort(
    (a, b) =>
      (worst.get(a.model) ?? 3) - (worst.get(b.model) ?? 3) || modelOrder(a, b) || gravity[a.state] - gravity[b.state],
  )
}
/** Rows of one model stay together. @param {Row} a @param {Row} b */
const modelOrder = (a, b) => (a.model < b.model ? -1 : a.model > b.model ? 1 : 0)

let drawnShape = ''
/** @type {Map<string, { head: HTMLElement, total: HTMLElement, out: HTMLElement, slow: HTMLElement }>} */
const models = new Map()
/** @type {Map<string, ReturnType<typeof makeRow>>} */
const rows = new Map()
/** @param {View} view */
function drawBackends({ backends: given }) {
  byId('backends-filter').hidden = given.length <= MANY
  const backends = ordered(given)
  /** @type {Map<string, Row[]>} */
  const byModel = new Map()
  for (const row of backends) byModel.set(row.model, [...(byModel.get(row.model) ?? []), row])
  // A reload may add and remove: then the table is made anew, otherwise its nodes stay.
  const wanted = JSON.stringify(backends.map(nameOf))
  if (wanted !== drawnShape) {
    drawnShape = wanted
    models.clear()
    rows.clear()
    for (const body of byId('backends').querySelectorAll('tbody')) body.remove()
    for (const [model, members] of byModel) {
      const body = make('tbody')
      const head = make('tr')
      const title = make('th', 'model', model)
      title.scope = 'rowgroup'
      title.colSpan = 10
      const total = make('span')
      const out = make('span', 'out')
      const slow = make('span', 'slow')
      title.append(total, out, slow)
      head.append(title)
      body.append(head)
      models.set(model, { head, total, out, slow })
      for (const row of members) {
        const refs = makeRow(row)
        rows.set(nameOf(row), refs)
        body.append(refs.node)
      }
      byId('backends').append(body)
    }
  }
  for (const [model, members] of byModel) {
    const drawn = models.get(model)
    if (drawn === undefined) continue
    const { total, out, slow } = drawn
    const outs = members.filter(isOut).length
    const slows = members.filter(row => row.state === 'throttled').length
    setText(total, say(members.length === 1 ? 'model_one' : 'model_count', { total: members.length }))
    setText(out, outs === 0 ? '' : say('model_out', { count: outs }))
    setText(slow, slows === 0 ? '' : say('model_throttled', { count: slows }))
    drawn.head.hidden = !members.some(isShown)
    for (const row of members) {
      const refs = rows.get(nameOf(row))
      if (refs !== undefined) drawRow(refs, row)
    }
  }
}
