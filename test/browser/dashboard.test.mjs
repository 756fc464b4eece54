// The live status page as a person uses it, in a real browser.
import assert from 'node:assert/strict'
import { after, afterEach, before, describe, it } from 'node:test'
import { ADMIN_KEY, PLAIN_KEY } from '../../dist/test/fixtures/dashboard-server.js'
import { giveKey, openPage, picture, poorContrast, startBrowser } from './browser.mjs'
import { openStage } from './stage.mjs'

const KEY_NAME = 'azure-openai-proxy.admin-key'
let browser
const opened = []

before(async () => {
  browser = await startBrowser()
})
after(() => browser?.close())
afterEach(async () => {
  for (const thing of opened.splice(0).reverse()) await thing.close()
})

async function stageOf(options) {
  const stage = await openStage(options)
  opened.push(stage)
  return stage
}

/** A page on a stage with the key given, unless told otherwise. */
async function watch(stage, { key = ADMIN_KEY, ...options } = {}) {
  const viewer = await openPage(browser, stage.url, options)
  opened.push(viewer)
  await viewer.page.locator('#login-key').waitFor()
  if (key !== null) {
    await giveKey(viewer.page, key)
    await viewer.page.locator('#board').waitFor()
  }
  return viewer
}

/** One backend out, one throttled, the others at work: what the pictures show. */
async function troubled() {
  const lost = { status: 503, error: 'upstream_error', attempts: 3 }
  const unsaid = { prompt_tokens: null, completion_tokens: null, cached_tokens: null }
  const stage = await stageOf({
    history: {
      52: [
        stage => {
          for (let i = 0; i < 9; i++)
            stage.serve('gpt-4o', 'westeurope', { attempts: 2, backend: 'swedencentral' }, 'failed')
          stage.fail('gpt-4o', 'westeurope', { holdMs: 147_000 })
        },
      ],
      12: [stage => stage.throttle('text-embedding-3-small', 'northeurope', 4 * 60_000)],
      1: [stage => stage.serve('gpt-4o', 'swedencentral', { ...lost, ...unsaid })],
    },
  })
  stage.hold('gpt-4o', 'eastus2-ptu', 7)
  stage.hold('gpt-4o', 'swedencentral', 2)
  return stage
}

const rowOf = (page, backend) =>
  page.locator('#backends tr.row').filter({ has: page.locator(`th[title="${backend}"]`) })
// As it is seen, with the breaks between lines and without what is hidden.
// biome-ignore lint/performance/useDomNodeTextContent: what is seen is the point, not what is in the nodes
const text = locator => locator.innerText()
const eventually = async (look, wanted, what) => {
  const until = Date.now() + 15_000
  let last
  while (Date.now() < until) {
    last = await look()
    if (wanted(last)) return last
    await new Promise(resolve => setTimeout(resolve, 50))
  }
  assert.fail(`${what}: last seen ${JSON.stringify(last)}`)
}
const shows = (locator, pattern) =>
  eventually(
    () => text(locator),
    found => pattern.test(found),
    String(pattern),
  )

describe('the key', () => {
  it('is asked for; a wrong one and one that is no admin are said plainly, the right one opens the page', async () => {
    const { page } = await watch(await stageOf({ quiet: true }), { key: null })
    assert.equal(await page.locator('#login-problem').isVisible(), false, 'nothing is wrong yet')
    assert.equal(await page.evaluate(() => document.activeElement.id), 'login-key')
    await picture(page, 'key')
    await giveKey(page, 'wrong')
    await shows(page.locator('#login-problem'), /does not know this key/)
    await giveKey(page, 'schlüssel 钥匙')
    await shows(page.locator('#login-problem'), /does not know this key/)
    await giveKey(page, PLAIN_KEY)
    await shows(page.locator('#login-problem'), /not an admin key/)
    await giveKey(page, ADMIN_KEY)
    await shows(page.locator('#link-text'), /^Live$/)
  })

  it('stays in this tab, goes in a header and never into a URL; forgetting it leaves nothing', async () => {
    const { page, seen } = await watch(await stageOf({ quiet: true }))
    const kept = await page.evaluate(() => [
      JSON.stringify(sessionStorage),
      JSON.stringify(localStorage),
      document.cookie,
    ])
    assert.deepEqual(kept, [JSON.stringify({ [KEY_NAME]: ADMIN_KEY }), '{}', ''])
    await page.reload()
    await shows(page.locator('#link-text'), /^Live$/)
    for (const request of seen.requests) assert.ok(!request.url().includes(ADMIN_KEY))
    assert.ok(!(await page.content()).includes(ADMIN_KEY), 'nor is it anywhere in the page')
    await page.locator('#forget').click()
    await page.locator('#login-key').waitFor()
    assert.equal(await page.evaluate(() => JSON.stringify(sessionStorage)), '{}')
  })

  it('that a reload took away is asked for again', async () => {
    const stage = await stageOf({ quiet: true })
    const { page } = await watch(stage)
    stage.revoke()
    await page.locator('#login-key').waitFor()
    await shows(page.locator('#login-problem'), /does not know this key/)
  })
})

describe('a stranger', () => {
  it('reads at the top which backend is out, why and until when', async () => {
    const stage = await troubled()
    const { page } = await watch(stage)
    assert.equal(await text(page.locator('h1 >> visible=true')), '1 of 5 backends is out')
    const [out, slow] = await page.locator('#outs li').allInnerTexts()
    assert.match(
      out,
      /^westeurope \(gpt-4o\) is out because it answered with a server error \(503\), until \d\d:\d\d:\d\d \(in 1 min \d\d s\), for 5\d s now\s+Azure fails: /,
    )
    assert.match(
      slow,
      /^northeurope \(text-embedding-3-small\) is throttled until \d\d:\d\d:\d\d \(in \d min \d\d s\)\nAzure's limit for this deployment is reached/,
    )
    assert.match(await page.title(), /^\(1\) /)
    const shown = /until (\d\d:\d\d:\d\d)/.exec(out)[1]
    const { untilMs } = stage.health('gpt-4o', 'westeurope').state.phase.trouble
    const exact = new Date(untilMs - stage.clock.nowMs() + stage.clock.epochMs())
    assert.ok(
      Math.abs(Date.parse(`${exact.toDateString()} ${shown}`) - exact.getTime()) < 2_000,
      'the time is the real one',
    )
  })

  it('sees the state of each in words, and the countdown go down', async () => {
    const { page } = await watch(await troubled())
    assert.match(await text(rowOf(page, 'eastus2-ptu')), /Healthy/)
    const row = rowOf(page, 'westeurope')
    const before = await text(row.locator('.why'))
    assert.match(before, /server error \(503\)\nuntil \d\d:\d\d:\d\d · 1 min \d\d s left/)
    await eventually(
      () => text(row.locator('.why')),
      now => now !== before,
      'the countdown',
    )
    assert.match(await text(rowOf(page, 'northeurope')), /Throttled\s+until/)
    assert.match(await text(page.locator('th.model').first()), /gpt-4o\s*3 backends\s*1 out/)
  })

  it('sees figures, headroom and a quarter of an hour of each', async () => {
    const { page } = await watch(await troubled())
    const row = rowOf(page, 'eastus2-ptu')
    const cells = await row.locator('td').allInnerTexts()
    assert.match(cells[1], /^7$/)
    assert.match(cells[2], /^\d(\.\d)?$/)
    assert.match(cells[3], /%/)
    assert.match(cells[4], /^\d+ ms\s+\d+ ms$/)
    assert.match(cells[5], /k$/)
    assert.match(cells[6], /%$/)
    assert.match(cells[7], /requests\s+\d+%\s+tokens\s+\d+%/)
    assert.equal(await row.locator('svg.spark path.line').count(), 2)
    assert.match(await text(row.locator('th')), /tier 1 · weight 4/)
  })

  it('sees it by day, by night and in Chinese', async () => {
    const stage = await troubled()
    stage.startTraffic()
    for (const [name, options] of Object.entries({
      'status-light': {},
      'status-dark': { colorScheme: 'dark' },
      'status-zh': { locale: 'zh-CN' },
    })) {
      const { page, seen } = await watch(stage, options)
      await eventually(
        () => page.locator('#requests-rows tr').count(),
        count => count > 20,
        'requests',
      )
      await picture(page, name)
      assert.deepEqual(await page.evaluate(poorContrast), [], `contrast of ${name}`)
      assert.deepEqual(seen.faults, [])
      if (options.locale === undefined) continue
      assert.equal(await page.evaluate(() => document.documentElement.lang), 'zh-CN')
      assert.equal(await text(page.locator('#summary-title')), '5 个后端中有 1 个已摘除')
      assert.match(await text(page.locator('#outs li').first()), /westeurope.*原因：返回服务器错误（503）/)
      assert.doesNotMatch(await text(page.locator('#board')), /\b(Healthy|Ejected|Requests|until)\b/)
    }
  })

  it('follows a backend through its trial back to health without touching the page', async () => {
    const stage = await stageOf({ quiet: true })
    const { page } = await watch(stage)
    const title = page.locator('#summary-title')
    await shows(title, /^All 5 backends are healthy$/)
    stage.fail('gpt-4o', 'westeurope', { reason: 'connect_failed', detail: 'ECONNREFUSED', holdMs: 1_500 })
    await shows(title, /^1 of 5 backends is out$/)
    await shows(page.locator('#said'), /westeurope \(gpt-4o\) ejected: it could not be reached \(ECONNREFUSED\)/)
    await shows(rowOf(page, 'westeurope'), /On trial\s+the next answer decides/)
    stage.answer('gpt-4o', 'westeurope')
    await shows(title, /^All 5 backends are healthy$/)
    const changes = await page.locator('#changes li p').allInnerTexts()
    assert.match(changes[0], /restored \(its trial was answered\)/)
    assert.match(changes[1], /ejected: it could not be reached/)
  })
})

/** At three in the morning: what has happened, and what must be read within ten seconds. */
const NIGHTS = {
  'model-down': {
    act: stage => {
      for (const backend of ['eastus2-ptu', 'swedencentral', 'westeurope'])
        stage.fail('gpt-4o', backend, { reason: 'connect_failed', detail: 'ENOTFOUND', holdMs: 300_000 })
    },
    title: /^gpt-4o is down: no backend left, its requests fail$/,
    says: [/could not be reached \(ENOTFOUND\)/, /in 4 min|in 5 min/, /private DNS zone/],
  },
  'one-out': {
    act: stage => stage.fail('gpt-4o', 'westeurope', { holdMs: 120_000 }),
    title: /^1 of 5 backends is out$/,
    says: [/westeurope \(gpt-4o\) is out because it answered with a server error/, /Azure fails/],
  },
  throttled: {
    act: stage => stage.throttle('gpt-4o', 'eastus2-ptu', 90_000),
    title: /^No backend is out, 1 of 5 throttled$/,
    says: [/eastus2-ptu \(gpt-4o\) is throttled until/, /in 1 min/, /raise its quota, or add a backend/],
  },
  firewall: {
    act: stage =>
      stage.fail('gpt-4o', 'swedencentral', {
        reason: 'network_refused',
        detail: '403 Access denied due to Virtual Network/Firewall rules.',
        holdMs: 60_000,
      }),
    title: /^1 of 5 backends is out$/,
    says: [
      /network rules refuse this machine/,
      /Virtual Network\/Firewall rules/,
      /Networking.*the key is not the trouble/,
    ],
  },
  'wrong-version': {
    act: stage => stage.lack('gpt-4o', 'westeurope', 'chat/completions at api_version 2031-02-01'),
    title: /^All 5 backends are healthy, but one does not serve what it is asked$/,
    says: [
      /westeurope \(gpt-4o\) does not serve chat\/completions at api_version 2031-02-01/,
      /Check api_version in the config/,
    ],
    tone: 'warn',
  },
  'egress-dead': {
    act: stage => {
      for (const [model, backend] of [
        ['gpt-4o', 'eastus2-ptu'],
        ['gpt-4o', 'swedencentral'],
        ['gpt-4o', 'westeurope'],
        ['text-embedding-3-small', 'eastus2'],
        ['text-embedding-3-small', 'northeurope'],
      ])
        stage.fail(model, backend, { reason: 'egress_refused', detail: 'proxy.corp:3128 ECONNREFUSED', holdMs: 60_000 })
    },
    title: /^2 models are down: no backend left for gpt-4o, text-embedding-3-small, their requests fail$/,
    says: [
      /^eastus2-ptu, swedencentral, westeurope \(gpt-4o\), eastus2, northeurope \(text-embedding-3-small\) are out because/,
      /egress proxy fails \(proxy\.corp:3128 ECONNREFUSED\)/,
      /Check the egress proxy and its credentials/,
    ],
  },
  'certificate-ending': {
    act: stage => {
      stage.self.certificate_ends_ms = Date.now() + 3 * 86_400_000
      stage.self.certificates = [{ cert: 'westeurope tls.cert', kind: 'file', ends_ms: Date.now() + 5 * 86_400_000 }]
    },
    title: /^All 5 backends are healthy, but a certificate ends soon$/,
    says: [
      /certificate ends .* \(in [23] days\): renew it and reload/,
      /westeurope tls\.cert of the config ends .*: renew its file/,
    ],
    tone: 'warn',
  },
  'reload-failed': {
    act: stage => {
      stage.self.reload_failed = { time_ms: Date.now() - 60_000, problem: 'config.yaml:7:3 modells: unknown key' }
    },
    title: /^All 5 backends are healthy, but the config was not reloaded$/,
    says: [/config was not reloaded at .* the old one is in force.*config\.yaml:7:3 modells: unknown key/],
    tone: 'warn',
  },
}

/** Each in another of the four ways to look at it; all four are seen. */
const LOOKS = [
  ['light', {}],
  ['dark', { colorScheme: 'dark' }],
  ['zh', { locale: 'zh-CN' }],
  ['phone', { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2 }],
]

describe('who is called at night', () => {
  for (const [name, { act, title, says, tone }] of Object.entries(NIGHTS)) {
    it(`reads cause, duration and cure: ${name}`, async () => {
      const stage = await stageOf({ quiet: true })
      act(stage)
      for (const [look, options] of LOOKS) {
        const { page, seen } = await watch(stage, options)
        const outs = page.locator('#outs')
        if (look === 'zh') {
          await eventually(
            () => text(page.locator('#summary')),
            found => /[\u4e00-\u9fff]/.test(found),
            'Chinese',
          )
          assert.doesNotMatch(await text(outs), /\b(Check|renew|Allow|fails)\b/)
        } else {
          await shows(page.locator('#summary-title'), title)
          for (const pattern of says) await shows(outs, pattern)
        }
        if (tone !== undefined) assert.equal(await page.locator('#summary').getAttribute('data-tone'), tone)
        await shows(page.locator('#about'), /proxy-1 · 2\.1\.0/)
        assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${look} fits`)
        assert.deepEqual(await page.evaluate(poorContrast), [], `contrast: ${look}`)
        assert.deepEqual(seen.faults, [])
        await picture(page, `night-${name}-${look}`)
      }
    })
  }

  it('knows which backends nobody has asked yet', async () => {
    const { page } = await watch(await stageOf({ quiet: true, unasked: true }))
    await shows(page.locator('#summary-title'), /^None of 5 backends has been asked yet$/)
    await shows(rowOf(page, 'westeurope'), /Not asked yet/)
  })

  it('finds the two of sixty that are out, first and by filter', async () => {
    const places = Array.from({ length: 60 }, (_, i) => ({
      model: `model-${Math.floor(i / 6)}`,
      backend: `contoso-aoai-prod-region-${i}-resource/deployment-${i}`,
    }))
    const stage = await stageOf({ quiet: true, places })
    const { page } = await watch(stage)
    for (const i of [40, 57]) stage.fail(`model-${Math.floor(i / 6)}`, places[i].backend, { holdMs: 600_000 })
    await shows(page.locator('#summary-title'), /^2 of 60 backends are out$/)
    const first = await text(page.locator('#backends tbody').first())
    assert.match(first, /model-6/, 'trouble first')
    const name = page.locator('#backends tr.row th').first()
    assert.match(await text(name), /contoso-aoai-prod-.*….*deployment-40/, 'cut in the middle')
    await page.locator('#filter-trouble').check()
    await eventually(
      () => page.locator('#backends tr.row:visible').count(),
      count => count === 2,
      'the two in trouble',
    )
    await page.locator('#filter-trouble').uncheck()
    await page.locator('#filter-backends').fill('region-33')
    await eventually(
      () => page.locator('#backends tr.row:visible').count(),
      count => count === 1,
      'one row',
    )
    await page.locator('#outs a').first().click()
    assert.match(page.url(), /#at-model-6-/)
  })

  it('sees what each key has used and what is left of its limits', async () => {
    const stage = await stageOf({ quiet: true })
    stage.keys.push({
      key: 'webshop',
      requests: 1_234,
      errors: 3,
      prompt_tokens: 900_000,
      completion_tokens: 80_000,
      cached_tokens: 400_000,
      cost: 3.25,
      limits: [
        { limit: 'tokens_per_month', used: 980_000, max: 1_000_000 },
        { limit: 'concurrent', used: 2, max: 50 },
      ],
    })
    const { page } = await watch(stage)
    await shows(
      page.locator('#keys'),
      /webshop\s+1,234\s+3\s+900K \/ 80K\s+400K\s+3\.25\s+980K of 1M tokens this month\s*2 of 50 at once/i,
    )
  })
})

describe('eject and restore', () => {
  it('by keyboard alone: the safe answer has the focus, Escape changes nothing, Enter on Eject does it', async () => {
    const stage = await stageOf({ quiet: true })
    const { page } = await watch(stage)
    const eject = page.getByRole('button', { name: 'Eject westeurope of gpt-4o' })
    await eject.focus()
    await page.keyboard.press('Enter')
    assert.match(await text(page.locator('dialog')), /Eject westeurope\?/)
    assert.equal(await page.evaluate(() => document.activeElement.id), 'confirm-no')
    await page.keyboard.press('Escape')
    await page.locator('dialog').waitFor({ state: 'hidden' })
    assert.deepEqual(stage.orders, [])
    await page.keyboard.press('Enter')
    await page.keyboard.press('Tab')
    await page.keyboard.press('Enter')
    await shows(rowOf(page, 'westeurope'), /Ejected by hand\s+until restored/)
    await shows(page.locator('#outs'), /westeurope \(gpt-4o\) is out by hand, until somebody restores it/)
    assert.equal(await eject.getAttribute('aria-disabled'), 'true')
    assert.ok(await eject.evaluate(node => node === document.activeElement), 'the focus is back where it was')

    await page.getByRole('button', { name: 'Restore westeurope of gpt-4o' }).click()
    await page.locator('dialog').getByRole('button', { name: 'Restore' }).click()
    await shows(rowOf(page, 'westeurope'), /Healthy/)
    assert.deepEqual(
      stage.orders.map(({ action, backend }) => [action, backend]),
      [
        ['eject', 'westeurope'],
        ['restore', 'westeurope'],
      ],
    )
  })

  it('that the proxy refuses is said in the dialog', async () => {
    const stage = await stageOf({ quiet: true })
    const { page } = await watch(stage)
    await page.route('**/backends/eject', route =>
      route.fulfill({ status: 404, json: { error: { message: 'There is no backend of this name.' } } }),
    )
    await page.getByRole('button', { name: 'Eject westeurope of gpt-4o' }).click()
    await page.locator('dialog').getByRole('button', { name: 'Eject' }).click()
    await shows(page.locator('#confirm-problem'), /did not do it: There is no backend of this name/)
  })
})

describe('the last requests', () => {
  it('come as they finish, the newest first, a hundred at most', async () => {
    const stage = await stageOf({ quiet: true })
    const { page } = await watch(stage)
    await shows(page.locator('#requests-empty'), /No requests yet/)
    stage.serve('gpt-4o', 'westeurope', { key: 'first-key', status: 200 })
    await shows(page.locator('#requests-rows tr').first(), /first-key/)
    for (let i = 0; i < 3; i++) {
      for (let n = 0; n < 45; n++) stage.serve('gpt-4o', 'eastus2-ptu', { key: `batch-${i}` })
      await shows(page.locator('#requests-rows tr').first(), new RegExp(`batch-${i}`))
    }
    assert.equal(await page.locator('#requests-rows tr').count(), 100)
  })

  it('are filtered by model, key and status, by class and by code', async () => {
    const stage = await stageOf({ quiet: true })
    stage.serve('gpt-4o', 'westeurope', { key: 'a', status: 200 })
    stage.serve('gpt-4o', 'westeurope', { key: 'b', status: 503, error: 'upstream_error' })
    stage.serve('gpt-4o', 'westeurope', { key: 'b', status: 502, error: 'no_backend' })
    stage.serve('text-embedding-3-small', 'eastus2', { key: 'a', status: 429 })
    const { page } = await watch(stage)
    const codes = () => page.locator('#requests-rows .code').allInnerTexts()
    const choose = (name, value) => page.getByLabel(name, { exact: true }).selectOption(value)
    assert.deepEqual(await codes(), ['429', '502', '503', '200'])
    await choose('Status', '5xx')
    assert.deepEqual(await codes(), ['502', '503'])
    await choose('Status', '503')
    assert.deepEqual(await codes(), ['503'])
    await choose('Status', '')
    await choose('Key', 'a')
    assert.deepEqual(await codes(), ['429', '200'])
    await choose('Model', 'gpt-4o')
    assert.deepEqual(await codes(), ['200'])
    await choose('Status', '4xx')
    assert.deepEqual(await codes(), [])
    await shows(page.locator('#requests-empty'), /None of the last 4 requests matches/)
    stage.serve('gpt-4o', 'westeurope', { key: 'a', status: 400 })
    await eventually(codes, found => found.join() === '400', 'what comes later is filtered too')
  })

  it('stand still while paused, and are all there afterwards', async () => {
    const stage = await stageOf({ quiet: true })
    stage.serve('gpt-4o', 'westeurope', { key: 'before' })
    const { page } = await watch(stage)
    await page.getByRole('button', { name: 'Pause' }).click()
    stage.serve('gpt-4o', 'westeurope', { key: 'during' })
    await shows(page.locator('#pause'), /Paused, 1 waiting/)
    assert.equal(await page.locator('#requests-rows tr').count(), 1)
    await page.locator('#pause').click()
    assert.equal(await page.locator('#requests-rows tr').count(), 2)
  })
})

describe('the page', () => {
  it('asks nobody but its own proxy and breaks none of its own rules', async () => {
    const stage = await troubled()
    stage.startTraffic()
    const { page, seen } = await watch(stage)
    await eventually(
      () => page.locator('#requests-rows tr').count(),
      count => count > 20,
      'requests',
    )
    assert.deepEqual([...new Set(seen.requests.map(request => request.url()))].sort(), [
      `${stage.url}/dashboard`,
      `${stage.url}/dashboard/events`,
    ])
    assert.deepEqual(seen.faults, [])
  })

  it('shows hostile names as text', async () => {
    const hostile = [
      '<img src=x onerror=alert(1)>',
      '"><script>alert(2)</script>',
      "');alert(3)//",
      '__proto__',
      '\u202Ereversed {time} $& \n',
    ]
    const places = hostile.map(name => ({ model: name, backend: name }))
    const stage = await stageOf({ places, quiet: true })
    const { page, seen } = await watch(stage)
    for (const name of hostile) {
      stage.serve(name, name, { key: name, path: `/v1/${name}`, error: name, id: name })
      stage.fail(name, name, { reason: name, detail: name, holdMs: 60_000 })
    }
    await eventually(
      () => page.locator('#changes li').count(),
      count => count === hostile.length,
      'changes',
    )
    for (const name of hostile) {
      const found = await page.locator('#backends tr.row th').allTextContents()
      assert.ok(
        found.some(shown => shown.startsWith(name)),
        name,
      )
    }
    await page.getByRole('button', { name: /^Eject <img/ }).click()
    assert.match(await text(page.locator('#confirm-title')), /Eject <img src=x onerror=alert\(1\)>\?/)
    assert.equal(await page.locator('img, body script ~ script, iframe').count(), 0)
    assert.deepEqual(seen.alerts, [])
    assert.deepEqual(seen.faults, [])
  })

  it('says when data are late, when the connection is lost, and comes back by itself', async () => {
    const stage = await openStage({ quiet: true })
    const { page } = await watch(stage)
    const port = Number(new URL(stage.url).port)
    await shows(page.locator('#link-text'), /^Live$/)
    await stage.close()
    await shows(page.locator('#link-text'), /Connection lost.*Next try in \d+ s/)
    assert.ok(await page.locator('#board').evaluate(node => node.classList.contains('stale')))
    await shows(page.locator('#said'), /Connection to the proxy lost/)
    const next = await stageOf({ quiet: true, port })
    await shows(page.locator('#link-text'), /^Live$/)
    await shows(page.locator('#said'), /Live data again/)
    next.fail('gpt-4o', 'westeurope')
    await shows(page.locator('#summary-title'), /1 of 5/)
  })

  it('notices a stream that has fallen silent, though the socket is open', async () => {
    const stage = await stageOf({ quiet: true })
    const { page } = await watch(stage)
    await shows(page.locator('#link-text'), /^Live$/)
    stage.stall()
    await shows(page.locator('#link-text'), /Data are \d+ s old/)
    assert.ok(await page.locator('#board').evaluate(node => node.classList.contains('stale')))
  })

  it('can be used by keyboard and screen reader', async () => {
    const { page } = await watch(await troubled())
    const found = await page.evaluate(() => ({
      landmarks: ['header', 'main', 'h1'].map(name => document.querySelectorAll(`body ${name}`).length > 0),
      headers: [...document.querySelectorAll('th')].filter(th => !th.scope).length,
      live: [...document.querySelectorAll('[aria-live], [role=status], [role=alert], [role=log]')].map(node => node.id),
      icons: [...document.querySelectorAll('svg')].filter(svg => svg.getAttribute('aria-hidden') !== 'true').length,
      nameless: [...document.querySelectorAll('button, select, input')].filter(
        node => !node.textContent.trim() && !node.ariaLabel && node.labels?.length === 0,
      ).length,
    }))
    assert.deepEqual(found, {
      landmarks: [true, true, true],
      headers: 0,
      live: ['login-problem', 'confirm-problem', 'said'],
      icons: 0,
      nameless: 0,
    })
    await page.evaluate(() => document.activeElement.blur())
    const stops = []
    for (let i = 0; i < 40; i++) {
      await page.keyboard.press('Tab')
      const stop = await page.evaluate(() => {
        const node = document.activeElement
        const { outlineStyle, outlineWidth } = getComputedStyle(node)
        return {
          id: node.id || node.ariaLabel || node.className,
          ring: outlineStyle !== 'none' && outlineWidth !== '0px',
        }
      })
      stops.push(stop)
    }
    const names = stops.map(({ id }) => id)
    for (const wanted of [
      'skip',
      'forget',
      'Eject eastus2-ptu of gpt-4o',
      'filter-model',
      'filter-key',
      'filter-status',
      'pause',
    ])
      assert.ok(names.includes(wanted), `${wanted} among ${names}`)
    assert.deepEqual(
      stops.filter(({ id, ring }) => !ring && id !== ''),
      [],
      'the focus can be seen everywhere',
    )
  })

  it('keeps still for those who asked for it', async () => {
    const { page } = await watch(await stageOf({ quiet: true }), { reducedMotion: 'reduce' })
    assert.equal(await page.evaluate(() => document.getAnimations().length), 0)
  })

  it('fits a telephone: only tables scroll sideways', async () => {
    const { page } = await watch(await troubled(), { viewport: { width: 360, height: 740 } })
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth))
    await picture(page, 'status-narrow')
  })

  it('draws five hundred backends without falling behind', async () => {
    const places = Array.from({ length: 500 }, (_, i) => ({ model: `model-${i % 50}`, backend: `backend-${i}` }))
    const stage = await stageOf({ places, quiet: true })
    const { page } = await watch(stage)
    await eventually(
      () => page.locator('#backends tr.row').count(),
      count => count === 500,
      'rows',
    )
    stage.fail('model-7', 'backend-7')
    await shows(page.locator('#summary-title'), /^1 of 500 backends is out$/)
    await shows(page.locator('#link-text'), /^Live$/)
  })
})
