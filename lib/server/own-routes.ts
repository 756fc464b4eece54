// The routes by which the proxy itself is watched. They are not its work: they count in no figure, and are logged only
// when they fail.

const OWN = /^\/(?:(?:health|livez|readyz|metrics|dashboard)(?:\/|$)|$)/

/** @param path without its query */
export function isOwnRoute(path: string): boolean {
  return OWN.test(path)
}
