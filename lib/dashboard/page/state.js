// Second part: what the stream said, icons and small charts. Nodes are made once and then only changed where something
// changed, so that focus, selection and a screen reader's place stay.

const MAX_LISTED = 100
const view = {
  /** @type {View | null} */
  data: null,
  step: 0,
  /** @type {Map<string, StepHistory>} */
  histories: new Map(),
  /** @type {readonly RequestRow[]} */
  requests: [],
  /** @type {readonly ChangeRow[]} */
  changes: [],
  skipped: 0,
  /** @type {readonly RequestRow[]} */
  waiting: [],
  paused: false,
}
const TOTAL = ''
/** @param {{ model: string, backend: string }} row */
const nameOf = row => JSON.stringify([row.model, row.backend])
/** What a link in the summary leads to. @param {{ model: string, backend: string }} row */
const rowId = row => `at-${encodeURIComponent(row.model)}-${encodeURIComponent(row.backend)}`

/**
 * StepHistory arrives whole once and then as its newest steps: older ones move on, the newest are written over.
 * @param {string} name @param {StepHistory} fresh @param {number} step @param {number} steps
 */
function remember(name, fresh, step, steps) {
  const known = view.histories.get(name)
  if (known === undefined || fresh.requests.length >= steps) {
    view.histories.set(name, fresh)
    return
  }
  const moved = Math.min(Math.max(step - view.step, 0), steps)
  for (const series of /** @type {(keyof StepHistory)[]} */ (Object.keys(fresh))) {
    /** @type {(number | null)[]} */
    const values = [...known[series]]
    for (let i = 0; i < moved; i++) values.push(series === 'ttfb_p50_ms' ? null : 0)
    values.splice(0, moved)
    values.splice(values.length - fresh[series].length, fresh[series].length, ...fresh[series])
    Object.assign(known, { [series]: values })
  }
}

/** @param {string} event @param {any} data one of the shapes in page-types.d.ts, by the event's name */
function take(event, data) {
  if (event === 'snapshot' || event === 'tick') {
    if (event === 'snapshot') {
      view.histories.clear()
      view.requests = data.requests
      view.changes = data.changes
      view.waiting = []
      view.skipped = 0
    }
    remember(TOTAL, data.totals.history, data.step, data.steps)
    for (const row of data.backends) remember(nameOf(row), row.history, data.step, data.steps)
    view.step = data.step
    view.data = data
  } else if (event === 'request') {
    view.skipped = data.skipped
    if (view.paused) view.waiting = [...data.requests, ...view.waiting].slice(0, MAX_LISTED)
    else view.requests = [...data.requests, ...view.requests].slice(0, MAX_LISTED)
  } else if (event === 'change') {
    view.changes = [...data.changes, ...view.changes].slice(0, MAX_LISTED)
    announce(data.changes.slice(0, 3).map(changeText).join('. '))
  }
  drawSoon()
}

let drawing = false
function drawSoon() {
  if (drawing) return
  drawing = true
  requestAnimationFrame(() => {
    drawing = false
    draw()
  })
}
// Countdowns go on while the stream is silent.
setInterval(drawSoon, 1_000)

/** @param {string} text for screen readers */
function announce(text) {
  setText(byId('said'), text)
}

/** @type {Record<ShownState, [keyof SVGElementTagNameMap, Record<string, string | number>][]>} */
const SHAPES = {
  healthy: [
    ['circle', { cx: 10, cy: 10, r: 8.5, fill: 'currentColor' }],
    ['path', { d: 'm6 10.3 2.8 2.8L14 7.6', class: 'cut' }],
  ],
  throttled: [
    ['path', { d: 'M10 1.2 19 17.6H1z', fill: 'currentColor', 'stroke-linejoin': 'round' }],
    ['path', { d: 'M10 7v4.6M10 14.2v.6', class: 'cut' }],
  ],
  ejected: [
    ['path', { d: 'M6.3 1.5h7.4l4.8 4.8v7.4l-4.8 4.8H6.3l-4.8-4.8V6.3z', fill: 'currentColor' }],
    ['path', { d: 'm6.8 6.8 6.4 6.4m0-6.4-6.4 6.4', class: 'cut' }],
  ],
  hand: [
    ['rect', { x: 1.5, y: 1.5, width: 17, height: 17, rx: 3, fill: 'currentColor' }],
    ['path', { d: 'M7.4 6v8M12.6 6v8', class: 'cut' }],
  ],
  trial: [
    [
      'circle',
      {
        cx: 10,
        cy: 10,
        r: 7.6,
        fill: 'none',
        stroke: 'currentColor',
        'stroke-width': 2,
        'stroke-dasharray': '3.2 2.2',
      },
    ],
    ['circle', { cx: 10, cy: 10, r: 3.2, fill: 'currentColor' }],
  ],
}
const CUT = {
  fill: 'none',
  stroke: 'var(--card)',
  'stroke-width': '2',
  'stroke-linecap': 'round',
  'stroke-linejoin': 'round',
}
/** @param {SVGElement} node @param {ShownState} state */
function icon(node, state) {
  if (node.dataset.shape === state) return
  node.dataset.shape = state
  node.replaceChildren(
    ...SHAPES[state].map(([tag, attributes]) => {
      const part = shape(tag, attributes)
      if (attributes.class === 'cut') {
        for (const [name, value] of Object.entries(CUT)) part.setAttribute(name, value)
      }
      return part
    }),
  )
}
function iconNode() {
  return shape('svg', { viewBox: '0 0 20 20', 'aria-hidden': 'true' })
}

/** The state as it is shown: a backend taken out manually is another case than one that failed. @param {Row} row @returns {ShownState} */
const shownState = row => (row.state === 'ejected' && row.reason === 'by_hand' ? 'hand' : row.state)
/** @param {Row} row */
const isOut = row => row.state === 'ejected'

/**
 * An area of the last 15 minutes with its errors in red, or a line where there may be gaps.
 * @param {SVGElement} node
 * @param {readonly (number | null)[]} series
 * @param {readonly number[] | null} troubles
 * @param {(max: number) => string} label
 */
function spark(node, series, troubles, label) {
  // Without the newest step: it has only begun, and would look like a fall.
  const values = series.slice(0, -1)
  const errors = troubles === null ? null : troubles.slice(0, -1)
  const key = `${values.join()}|${(errors ?? []).join()}`
  if (node.dataset.drawn === key) return
  node.dataset.drawn = key
  const width = values.length
  let max = 0
  for (const value of values) if (value !== null && value > max) max = value
  /** @param {number | null} value */
  const y = value => (23 - ((value ?? 0) / (max || 1)) * 21).toFixed(2)
  const parts = [shape('path', { class: 'base', d: `M0 23.5H${width}` })]
  /** @param {readonly (number | null)[]} list */
  const area = list => `M0 23${list.map((value, i) => `L${i} ${y(value)}L${i + 1} ${y(value)}`).join('')}L${width} 23Z`
  if (max > 0 && errors !== null) {
    parts.push(shape('path', { class: 'area', d: area(values) }))
    parts.push(
      shape('path', {
        class: 'line',
        d: values.map((value, i) => `${(i ? 'L' : 'M') + (i + 0.5)} ${y(value)}`).join(''),
      }),
    )
    if (errors.some(value => value > 0)) parts.push(shape('path', { class: 'errs', d: area(errors) }))
  } else if (max > 0) {
    let d = ''
    let open = false
    values.forEach((value, i) => {
      if (value !== null) d += `${(open ? 'L' : `M${i} ${y(value)}L`) + (i + 1)} ${y(value)}`
      open = value !== null
    })
    parts.push(shape('path', { class: 'line', d }))
  }
  node.setAttribute('viewBox', `0 0 ${width} 24`)
  const title = shape('title', {})
  title.textContent = label(max)
  node.replaceChildren(title, ...parts)
}
function sparkNode() {
  return shape('svg', { class: 'spark', viewBox: '0 0 90 24', preserveAspectRatio: 'none', 'aria-hidden': 'true' })
}
/** @param {number} max of a step */
const perSecond = max => say('spark', { max: rate(max / ((view.data?.step_ms ?? 1_000) / 1000)) })
/** @param {number} max milliseconds */
const atMost = max => say('spark_ms', { max: millis(max) })
