// The live status page's script, first part: words and numbers, the key, the event stream. The page holds no state but what the
// stream said; every string from outside becomes text, never markup. The build pastes the parts into one function, so they share
// their names (deploy/build/page.ts); `WORDS` stands in front of them.

const zh = /^zh\b/i.test(navigator.language)
const lang = zh ? 'zh-CN' : navigator.language || 'en'
const words = zh ? WORDS.zh : WORDS.en
document.documentElement.lang = zh ? 'zh-CN' : 'en'

/**
 * An element of page.html. The build holds the ids and their tags against page-types.d.ts.
 * @template {keyof PageElements} Id
 * @param {Id} id
 */
const byId = id => /** @type {PageElements[Id]} */ (document.getElementById(id))

/**
 * A text in the reader's language.
 * @param {Word} name
 * @param {Record<string, string | number>} values for `{name}` in it
 */
const say = (name, values = {}) =>
  words[name].replace(/\{(\w+)\}/g, (all, key) => (values[key] === undefined ? all : String(values[key])))

/** A text whose name is made of data; undefined where there is none. @param {string} name */
const sayIfKnown = name => (name in words ? words[/** @type {Word} */ (name)] : undefined)

/** @param {Element} node @param {string} text */
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text
}
/** @param {Element} node @param {string} name @param {string} value */
function setAttr(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value)
}
/**
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {string} className
 * @param {string} [text] always as text, never as markup
 */
function make(tag, className = '', text) {
  const node = document.createElement(tag)
  if (className) node.className = className
  if (text !== undefined) node.textContent = text
  return node
}
/**
 * @template {keyof SVGElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, string | number>} attributes
 */
function shape(tag, attributes) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag)
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value))
  return node
}

const numbers = new Intl.NumberFormat(lang, { maximumFractionDigits: 0 })
const short = new Intl.NumberFormat(lang, { notation: 'compact', maximumSignificantDigits: 3 })
const fine = new Intl.NumberFormat(lang, { maximumSignificantDigits: 2 })
const money = new Intl.NumberFormat(lang, { minimumFractionDigits: 2, maximumFractionDigits: 4 })
const percent = new Intl.NumberFormat(lang, { style: 'percent', maximumFractionDigits: 1 })
const clockTime = new Intl.DateTimeFormat(lang, {
  hour: '2-digit',
  minute: '2-digit',
  second: '2-digit',
  hourCycle: 'h23',
})
const dayTime = new Intl.DateTimeFormat(lang, {
  month: 'short',
  day: 'numeric',
  hour: '2-digit',
  minute: '2-digit',
  hourCycle: 'h23',
})
const NOTHING = '–'

/** @param {number | null} n */
const count = n => (n === null ? NOTHING : n < 10_000 ? numbers.format(n) : short.format(n))
/** @param {number} n */
const rate = n => (n === 0 ? '0' : n < 100 ? fine.format(n) : count(n))
/** @param {number | null} n from 0 to 1 */
const share = n => (n === null ? NOTHING : percent.format(n))
/** @param {number | null} n milliseconds */
const millis = n =>
  n === null
    ? NOTHING
    : n < 1000
      ? say('ms', { n: Math.round(n) })
      : say('s', { n: (n / 1000).toFixed(n < 10_000 ? 1 : 0) })

/** A wait or an age in words, in whole seconds, at least 0. @param {number} ms */
function span(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000))
  if (seconds < 60) return say('s', { n: seconds })
  if (seconds < 3600) return say('min_s', { m: Math.floor(seconds / 60), s: String(seconds % 60).padStart(2, '0') })
  return say('h_min', { h: Math.floor(seconds / 3600), m: Math.floor((seconds % 3600) / 60) })
}
/** The clock time, with its day where that is not today. @param {number} ms epoch */
function moment(ms) {
  const date = new Date(ms)
  return date.toDateString() === new Date(now()).toDateString() ? clockTime.format(date) : dayTime.format(date)
}
/** @param {string | null} reason a stable code @param {string | null} detail what the backend said */
function because(reason, detail) {
  const text = sayIfKnown(`reason_${reason}`) ?? reason ?? ''
  return detail && reason !== 'by_hand' ? text + (zh ? `（${detail}）` : ` (${detail})`) : text
}

// The proxy's clock, as the reader's may be wrong: every countdown is against it.
let clockGap = 0
const now = () => Date.now() + clockGap

/** @param {string} name of the attribute that names a word; the build knows all of page.html */
const labelled = name => /** @type {Iterable<HTMLElement>} */ (document.querySelectorAll(`[data-${name}]`))
for (const node of labelled('t')) setText(node, say(/** @type {Word} */ (node.dataset.t)))
for (const node of labelled('title')) node.title = say(/** @type {Word} */ (node.dataset.title))
document.title = say('title')

const KEY = 'azure-openai-proxy.admin-key'
const STALE_MS = 4_000
const DEAD_MS = 12_000
const WAITS_MS = [1_000, 2_000, 4_000, 8_000, 15_000]
const MAX_WAIT_MS = 30_000
const base = location.pathname.replace(/\/+$/, '')

const link = {
  /** @type {'connecting' | 'live' | 'lost' | 'key'} */
  state: 'connecting',
  failures: 0,
  retryAt: 0,
  heardAt: 0,
  full: false,
  generation: 0,
  abort: new AbortController(),
  timer: 0,
}

function readKey() {
  try {
    return sessionStorage.getItem(KEY) ?? ''
  } catch {
    return memoryKey
  }
}
// Where a browser forbids storage the key lives as long as the page.
let memoryKey = ''
/** @param {string} key */
function keepKey(key) {
  memoryKey = key
  try {
    if (key === '') sessionStorage.removeItem(KEY)
    else sessionStorage.setItem(KEY, key)
  } catch {}
}

/** What goes with every request: the key in a header, never in a URL. @param {string} key @returns {Record<string, string>} */
function credentials(key) {
  return key === '' ? {} : { authorization: `Bearer ${key}` }
}

function showLink() {
  const age = link.heardAt === 0 ? 0 : Date.now() - link.heardAt
  const values = { age: span(age), wait: span(link.retryAt - Date.now()) }
  let tone = 'none'
  /** @type {Word} */
  let name = `link_${link.state}`
  if (link.state === 'live') {
    tone = age > STALE_MS ? 'late' : 'live'
    if (age > STALE_MS) name = 'link_stale'
  } else if (link.state === 'lost') {
    tone = 'lost'
    name = link.full ? 'link_full' : link.heardAt === 0 ? 'link_lost' : 'link_lost_stale'
  }
  setAttr(byId('link'), 'data-link', tone)
  setText(byId('link-text'), say(name, values))
  byId('board').classList.toggle('stale', tone === 'late' || tone === 'lost')
}

/** @param {Word | ''} problem with the key given before */
function askKey(problem) {
  stop()
  link.state = 'key'
  byId('board').hidden = true
  byId('forget').hidden = true
  byId('login').hidden = false
  const node = byId('login-problem')
  node.hidden = problem === ''
  setText(node, problem === '' ? '' : say(problem))
  setAttr(byId('login-key'), 'aria-invalid', String(problem !== ''))
  byId('login-key').value = ''
  byId('login-key').focus()
  showLink()
}

function stop() {
  link.generation++
  clearTimeout(link.timer)
  link.abort.abort()
}

/** @param {boolean} full the proxy has too many viewers */
function again(full) {
  if (link.state === 'live') announce(say('said_lost'))
  stop()
  const waitMs = (WAITS_MS[link.failures] ?? MAX_WAIT_MS) * (0.8 + 0.4 * Math.random())
  link.failures++
  link.full = full
  link.state = 'lost'
  link.retryAt = Date.now() + waitMs
  link.timer = window.setTimeout(connect, waitMs)
  showLink()
}

/**
 * One line of an event stream at a time; only what this stream uses of the format: event, data.
 * @param {ReadableStream<Uint8Array>} body
 * @param {() => boolean} stillMine
 */
async function readEvents(body, stillMine) {
  const reader = body.getReader()
  const decoder = new TextDecoder()
  let rest = ''
  let event = ''
  let data = ''
  for (;;) {
    const { done, value } = await reader.read()
    if (done || !stillMine()) return
    rest += decoder.decode(value, { stream: true })
    const lines = rest.split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) {
      if (line.startsWith('event: ')) event = line.slice(7)
      else if (line.startsWith('data: ')) data += line.slice(6)
      else if (line === '') {
        if (data !== '') hear(event, JSON.parse(data))
        event = ''
        data = ''
      }
    }
  }
}

async function connect() {
  stop()
  const mine = link.generation
  const stillMine = () => link.generation === mine
  const key = readKey()
  link.abort = new AbortController()
  if (link.heardAt === 0) link.state = 'connecting'
  showLink()
  // A header cannot hold it, so the proxy cannot know it.
  if (/[^\x21-\x7e]/.test(key)) return refuseKey('key_wrong')
  try {
    const response = await fetch(`${base}/events`, {
      headers: credentials(key),
      signal: link.abort.signal,
      cache: 'no-store',
      credentials: 'omit',
      redirect: 'error',
    })
    if (!stillMine()) return
    if (response.status === 401) return refuseKey(key === '' ? '' : 'key_wrong')
    if (response.status === 403) return refuseKey('key_not_admin')
    if (!response.ok || response.body === null) return again(response.status === 503)
    await readEvents(response.body, stillMine)
  } catch {
    // Whatever broke it: the wait below is the answer.
  }
  if (stillMine()) again(false)
}

/** @param {Word | ''} problem */
function refuseKey(problem) {
  keepKey('')
  askKey(problem)
}

/** @param {string} event @param {any} data one of the shapes in page-types.d.ts, by the event's name */
function hear(event, data) {
  link.heardAt = Date.now()
  if (data.time_ms !== undefined) clockGap = data.time_ms - Date.now()
  take(event, data)
  if (event === 'snapshot') {
    if (link.failures > 0) announce(say('said_live'))
    link.state = 'live'
    link.failures = 0
    // Drawn before it is shown: nobody sees it empty.
    draw()
    const asked = !byId('login').hidden
    byId('login').hidden = true
    byId('board').hidden = false
    // The focus was in the form that is gone.
    if (asked) byId('main').focus({ preventScroll: true })
    byId('forget').hidden = readKey() === ''
  }
  showLink()
}

setInterval(() => {
  showLink()
  // A stream that says nothing is as good as gone, whatever the socket thinks.
  if (link.state === 'live' && Date.now() - link.heardAt > DEAD_MS) again(false)
}, 1_000)

addEventListener('online', () => {
  if (link.state === 'lost') connect()
})
byId('login').addEventListener('submit', event => {
  event.preventDefault()
  keepKey(byId('login-key').value.trim())
  byId('login-key').value = ''
  link.failures = 0
  link.heardAt = 0
  connect()
})
byId('forget').addEventListener('click', () => {
  keepKey('')
  location.reload()
})
