// A browser of this machine, and pages in it that keep note of what a person would not see: questions asked, faults, alerts.
import { accessSync, constants, mkdirSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright-core'

const ROOT = fileURLToPath(new URL('../../', import.meta.url))
const SCREENSHOTS = path.resolve(ROOT, process.env.SCREENSHOTS || 'build/screenshots')

/** The first of the known browsers on PATH, or CHROMIUM. */
function executable() {
  if (process.env.CHROMIUM) return process.env.CHROMIUM
  const folders = (process.env.PATH ?? '').split(path.delimiter)
  for (const name of ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable']) {
    for (const folder of folders) {
      const file = path.join(folder, name)
      try {
        accessSync(file, constants.X_OK)
        return file
      } catch {
        // Not here.
      }
    }
  }
  throw new Error('no browser found: install chromium, or name one with CHROMIUM=FILE')
}

export function startBrowser() {
  // Chromium's own sandbox does not start for root, as in most containers.
  const args = process.getuid?.() === 0 ? ['--no-sandbox'] : []
  return chromium.launch({ executablePath: executable(), args })
}

/** Opens a page of its own: no storage shared with others. @returns the page, and what it did */
export async function openPage(browser, url, options = {}) {
  const context = await browser.newContext({
    viewport: { width: 1440, height: 1000 },
    locale: 'en-GB',
    colorScheme: 'light',
    ...options,
  })
  const page = await context.newPage()
  const seen = { requests: [], faults: [], alerts: [] }
  page.on('request', request => seen.requests.push(request))
  page.on('pageerror', error => seen.faults.push(String(error.stack ?? error)))
  page.on('console', message => {
    // The browser itself notes answers that are no success; whether they are right, each test says.
    if (message.type() === 'error' && !/Failed to load resource/.test(message.text())) seen.faults.push(message.text())
  })
  page.on('dialog', dialog => {
    seen.alerts.push(dialog.message())
    dialog.dismiss()
  })
  await page.goto(`${url}/dashboard`)
  return { page, seen, close: () => context.close() }
}

/** Types the key as a person does. */
export async function giveKey(page, key) {
  await page.locator('#login-key').fill(key)
  await page.keyboard.press('Enter')
}

/** Keeps a picture for the README. */
export async function picture(page, name) {
  mkdirSync(SCREENSHOTS, { recursive: true })
  await page.screenshot({ path: path.join(SCREENSHOTS, `${name}.png`), animations: 'disabled' })
}

/**
 * Text on the page whose contrast with what is behind it is too low (WCAG 2.2, 1.4.3): 4.5, or 3 for large text. Runs in the page.
 */
export function poorContrast() {
  const parse = text => (text.match(/[\d.]+/g) ?? []).map(Number)
  const light = ([r, g, b]) => {
    const part = value => {
      const s = value / 255
      return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4
    }
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b)
  }
  const behind = element => {
    for (let at = element; at !== null; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor)
      if (color.length === 3 || color[3] === 1) return color
    }
    return [255, 255, 255]
  }
  const poor = []
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim() !== '')
    const style = getComputedStyle(element)
    if (!own || element.closest('svg, [aria-disabled="true"], .unseen') || !element.checkVisibility()) continue
    const [a, b] = [light(parse(style.color)), light(behind(element))]
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)
    const large =
      Number.parseFloat(style.fontSize) >= 24 || (Number.parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700)
    if (contrast < (large ? 3 : 4.5))
      poor.push(`${contrast.toFixed(2)} ${element.className}: ${element.textContent.slice(0, 40)}`)
  }
  return poor
}
