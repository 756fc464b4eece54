// Sixth part: the last requests with their filters, the last changes, eject and restore.

/** @type {Record<string, { node: HTMLSelectElement, of: (entry: RequestRow) => (string | null)[] }>} */
const filters = {
  model: { node: byId('filter-model'), of: entry => [entry.model] },
  key: { node: byId('filter-key'), of: entry => [entry.key] },
  status: { node: byId('filter-status'), of: entry => [`${Math.floor(entry.status / 100)}xx`, String(entry.status)] },
}
for (const filter of Object.values(filters)) {
  filter.node.append(new Option(say('all'), ''))
  filter.node.addEventListener('change', drawRequests)
}

/** Whether a list is open in a reader's hand; a browser that cannot say counts as closed. @param {Element} node */
function isOpen(node) {
  try {
    return node.matches(':open')
  } catch {
    return false
  }
}

/** Offers the values there are; a chosen one stays, also when its last request is gone. @param {typeof filters[string]} filter */
function drawFilter({ node, of }) {
  /** @type {Set<string>} */
  const values = new Set()
  for (const value of view.requests.flatMap(of)) if (value !== null) values.add(value)
  const chosen = node.value
  if (chosen !== '') values.add(chosen)
  const sorted = [...values].sort()
  const drawn = [...node.options].slice(1).map(option => option.value)
  if (isOpen(node) || JSON.stringify(sorted) === JSON.stringify(drawn)) return
  node.replaceChildren(new Option(say('all'), ''), ...sorted.map(value => new Option(value, value)))
  node.value = chosen
}

/** @param {RequestRow} entry */
const requestKey = entry => `${entry.source} ${entry.seq}`
/** @type {Map<string, HTMLElement>} */
const requestRows = new Map()
/** @param {RequestRow} entry */
function requestRow(entry) {
  const row = make('tr')
  /** @param {string} text @param {string} className */
  const cell = (text, className) => {
    const made = make('td', className, text)
    row.append(made)
    return made
  }
  const time = cell('', '')
  const at = make('time', '', clockTime.format(new Date(entry.time_ms)))
  at.dateTime = new Date(entry.time_ms).toISOString()
  time.append(at)
  const code = make('span', 'code', entry.status === 0 ? NOTHING : String(entry.status))
  code.dataset.class = String(Math.floor(entry.status / 100))
  cell('', '').append(code)
  /** @param {string | null} text */
  const wide = text => {
    const made = cell(text ?? NOTHING, 'wide')
    made.title = text ?? ''
    return made
  }
  wide(entry.model)
  const backend = wide(entry.backend)
  if (entry.attempts > 1) backend.append(' ', make('span', 'mark', say('tries', { count: entry.attempts })))
  const key = wide(entry.key)
  if (entry.client !== null) {
    key.append(' ', make('small', '', entry.client))
    key.title += ` ${entry.client}`
  }
  cell(entry.path + (entry.stream ? ` · ${say('stream')}` : ''), 'wide').title =
    `${entry.method} ${entry.path}\n${entry.id}`
  cell(`${millis(entry.ttfb_ms)} / ${millis(entry.duration_ms)}`, 'n')
  const { prompt_tokens, completion_tokens } = entry
  const counted = prompt_tokens !== null || completion_tokens !== null
  cell(counted ? `${count(prompt_tokens)} / ${count(completion_tokens)}` : NOTHING, 'n')
  cell(count(entry.cached_tokens), 'n')
  cell(entry.error ?? '', 'err')
  return row
}

function drawRequests() {
  for (const filter of Object.values(filters)) drawFilter(filter)
  const wanted = Object.values(filters).map(({ node, of }) => ({ value: node.value, of }))
  const shown = view.requests.filter(entry =>
    wanted.every(({ value, of }) => value === '' || of(entry).includes(value)),
  )
  const kept = new Set(shown.map(requestKey))
  for (const [key, row] of requestRows) {
    if (!kept.has(key)) {
      row.remove()
      requestRows.delete(key)
    }
  }
  const list = byId('requests-rows')
  let next = list.firstChild
  for (const entry of shown) {
    const key = requestKey(entry)
    const row = requestRows.get(key) ?? requestRow(entry)
    requestRows.set(key, row)
    if (row === next) next = row.nextSibling
    else list.insertBefore(row, next)
  }
  const total = view.requests.length
  setText(byId('requests-title'), say('requests', { count: MAX_LISTED }))
  byId('requests-empty').hidden = shown.length > 0
  setText(byId('requests-empty'), total === 0 ? say('requests_none') : say('requests_no_match', { count: total }))
  const notes = []
  if (shown.length < total) notes.push(say('shown_of', { shown: shown.length, count: total }))
  if (view.skipped > 0) notes.push(say('skipped', { count: count(view.skipped) }))
  setText(byId('requests-note'), notes.join(' · '))
  const { paused, waiting } = view
  setText(byId('pause'), paused ? say('paused', { count: waiting.length }) : say('pause'))
  setAttr(byId('pause'), 'aria-pressed', String(paused))
}
byId('pause').addEventListener('click', () => {
  view.paused = !view.paused
  view.requests = [...view.waiting, ...view.requests].slice(0, MAX_LISTED)
  view.waiting = []
  drawRequests()
})

/** @param {ChangeRow} change */
function changeWords(change) {
  if (change.kind === 'ejected') {
    const { reason, detail } = change
    return reason === 'by_hand' ? because(reason, detail) : say('change_ejected', { reason: because(reason, detail) })
  }
  if (change.kind === 'throttled') return say('change_throttled')
  const by = sayIfKnown(`change_by_${change.by}`)
  return by === undefined ? say('change_restored') : say('change_restored') + (zh ? `（${by}）` : ` (${by})`)
}
/** @param {ChangeRow} change */
function untilWords(change) {
  if (change.kind === 'restored') return ''
  return change.until_ms === null ? say('until_restored') : say('until', { time: moment(change.until_ms) })
}
/** @param {ChangeRow} change */
function changeText(change) {
  return [`${change.backend} (${change.model}) ${changeWords(change)}`, untilWords(change)].filter(Boolean).join(', ')
}
/** @type {readonly ChangeRow[] | null} */
let drawnChanges = null
function drawChanges() {
  if (drawnChanges === view.changes) return
  drawnChanges = view.changes
  byId('changes-empty').hidden = view.changes.length > 0
  byId('changes').replaceChildren(
    ...view.changes.map(change => {
      const line = make('li')
      const state =
        change.kind === 'restored'
          ? 'healthy'
          : change.kind === 'ejected' && change.reason === 'by_hand'
            ? 'hand'
            : change.kind
      line.dataset.state = state
      const at = make('time', '', moment(change.time_ms))
      at.dateTime = new Date(change.time_ms).toISOString()
      const mark = iconNode()
      icon(mark, state)
      const text = make('p')
      text.append(make('b', '', change.backend), ` (${change.model}) ${changeWords(change)}`)
      const until = untilWords(change)
      if (until !== '') text.append(make('span', 'sub', until))
      line.append(at, mark, text)
      return line
    }),
  )
}

/** @type {{ action: 'eject' | 'restore', model: string, backend: string, busy: boolean }} */
const steer = { action: 'eject', model: '', backend: '', busy: false }
/** @param {'eject' | 'restore'} action @param {string} model @param {string} backend */
function askSteer(action, model, backend) {
  Object.assign(steer, { action, model, backend, busy: false })
  setText(byId('confirm-title'), say(`${action}_title`, { backend }))
  setText(byId('confirm-text'), say(`${action}_text`, { backend, model }))
  byId('confirm-problem').hidden = true
  const yes = byId('confirm-yes')
  setText(yes, say(action))
  yes.className = action === 'eject' ? 'danger' : 'main'
  setAttr(yes, 'aria-disabled', 'false')
  byId('confirm').showModal()
  byId('confirm-no').focus()
}
/** @param {string} reason */
function steerFailed(reason) {
  setText(byId('confirm-problem'), say('steer_failed', { reason }))
  byId('confirm-problem').hidden = false
}
async function doSteer() {
  if (steer.busy) return
  steer.busy = true
  setAttr(byId('confirm-yes'), 'aria-disabled', 'true')
  try {
    const response = await fetch(`${base}/backends/${steer.action}`, {
      method: 'POST',
      headers: { ...credentials(readKey()), 'content-type': 'application/json' },
      body: JSON.stringify({ model: steer.model, backend: steer.backend }),
      cache: 'no-store',
      credentials: 'omit',
      redirect: 'error',
      signal: AbortSignal.timeout(10_000),
    })
    if (response.ok) byId('confirm').close()
    else if (response.status === 401) steerFailed(say('key_wrong'))
    else if (response.status === 403) steerFailed(say('key_not_admin'))
    else steerFailed((await response.json()).error.message)
  } catch {
    steerFailed(say('steer_no_answer'))
  }
  steer.busy = false
  setAttr(byId('confirm-yes'), 'aria-disabled', 'false')
}
byId('confirm-yes').addEventListener('click', doSteer)
byId('confirm-no').addEventListener('click', () => byId('confirm').close())

function draw() {
  if (view.data === null) return
  drawSummary(view.data)
  drawTotals(view.data)
  drawBackends(view.data)
  drawKeys(view.data)
  drawRequests()
  drawChanges()
}
connect()
