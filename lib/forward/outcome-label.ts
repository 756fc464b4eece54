// The short name of an outcome, for logs, metrics and the status page. Without imports: the page's scripts read it too.

/** The short name for logs and metrics; a closed set. */
export type OutcomeLabel =
  | 'served'
  | 'throttled'
  | 'failed'
  | 'timeout'
  | 'misconfigured'
  | 'unsupported'
  | 'shortage'
  | 'cut'
  | 'cancelled'
