// The live status page, whole: one HTML document that asks nobody but its own proxy. It is text in the program, so that the
// bundle and the executable hold it; its policy allows exactly this style and this script and no markup made from data.
import { createHash } from 'node:crypto'
import { DASHBOARD_MARKUP } from './dashboard-markup.ts'
import { DASHBOARD_SCRIPT_BASE, DASHBOARD_SCRIPT_STREAM } from './dashboard-script.ts'
import { DASHBOARD_SCRIPT_BACKENDS } from './dashboard-script-backends.ts'
import { DASHBOARD_SCRIPT_LISTS } from './dashboard-script-lists.ts'
import { DASHBOARD_SCRIPT_STATE } from './dashboard-script-view.ts'
import { DASHBOARD_STYLE, DASHBOARD_STYLE_TABLES } from './dashboard-style.ts'
import { EN } from './dashboard-words.ts'
import { ZH } from './dashboard-words-zh.ts'

export interface DashboardPage {
  readonly html: string
  /** The value of its Content-Security-Policy header; without the header the page is less safe than it could be. */
  readonly csp: string
}

/** A CSP source that allows exactly this inline text (CSP level 3, section 2.3.1: base64 of the SHA-256 of its bytes). */
function hashSource(text: string): string {
  return `'sha256-${createHash('sha256').update(text).digest('base64')}'`
}

/** Makes the page and its policy. The same for everyone: what it shows comes with an admin key only. */
export function dashboardPage(): DashboardPage {
  const style = DASHBOARD_STYLE + DASHBOARD_STYLE_TABLES
  // `<` could end the script element; in JSON it can always be written as an escape.
  const words = JSON.stringify({ en: EN, zh: ZH }).replaceAll('<', '\\u003c')
  const script = `
(() => {
'use strict'
const WORDS = ${words}
${DASHBOARD_SCRIPT_BASE}
${DASHBOARD_SCRIPT_STREAM}
${DASHBOARD_SCRIPT_STATE}
${DASHBOARD_SCRIPT_BACKENDS}
${DASHBOARD_SCRIPT_LISTS}
})()
`
  const html = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>Azure OpenAI Proxy: live status</title>
<link rel="icon" href="data:,">
<style>${style}</style>
</head>
<body>${DASHBOARD_MARKUP}<script>${script}</script>
</body>
</html>
`
  const csp = [
    "default-src 'none'",
    `style-src ${hashSource(style)}`,
    `script-src ${hashSource(script)}`,
    "connect-src 'self'",
    'img-src data:',
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
  ].join('; ')
  return { html, csp }
}
