// `make simulate`: prints the table of prompt-cache.ts. SEED chooses another course of chance.
import { table } from './prompt-cache.ts'

const seed = Number(process.env.SEED ?? 1)
process.stdout.write(`seed ${seed}\n${table(seed)}\n`)
