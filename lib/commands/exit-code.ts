// Exit codes of the process; users' scripts depend on it.

/** 0 done; 1 could not run; 2 the command line or the config is wrong. */
export type ExitCode = 0 | 1 | 2
