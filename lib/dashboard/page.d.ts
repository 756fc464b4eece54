// The status page as `make build` makes it of page/ (deploy/build/page.ts): the module lies in
// dist/lib/dashboard/page.js.

/** The whole document. The same for everyone: its data come with an admin key only. */
export const html: string
/** The value of its Content-Security-Policy header: exactly this style and this script. */
export const csp: string
