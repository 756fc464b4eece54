// The outcomes of an attempt as logs, metrics and the status page name them. Without imports: the page's scripts read
// it too.

/** A closed set, in the order of the metrics. */
export const OUTCOME_LABELS = [
  'served',
  'throttled',
  'failed',
  'timeout',
  'misconfigured',
  'unsupported',
  'shortage',
  'cut',
  'cancelled',
] as const

/** The short name of an outcome. */
export type OutcomeLabel = (typeof OUTCOME_LABELS)[number]
