// The cost of a request: its tokens as the upstream counted them, at its model's price.
import type { Price } from './config/types.ts'

/** Decimals that a cost is rounded to: a single token of a cheap model is 0.00000005. */
const DECIMALS = 9

/** Tokens as the upstream counted them; undefined where it did not say. Cached ones are among the prompt's. */
export interface CountedTokens {
  readonly promptTokens: number | undefined
  readonly completionTokens: number | undefined
  readonly cachedTokens: number | undefined
}

/**
 * @param price per million tokens; undefined: the model has none
 * @returns in the currency of the price; undefined without a price, and where nobody counted
 */
export function costOf(tokens: CountedTokens, price: Price | undefined): number | undefined {
  const { promptTokens, completionTokens, cachedTokens = 0 } = tokens
  if (price === undefined || (promptTokens === undefined && completionTokens === undefined)) return undefined
  const cached = Math.min(cachedTokens, promptTokens ?? 0)
  const fresh = (promptTokens ?? 0) - cached
  const millionfold = fresh * price.input + cached * price.cachedInput + (completionTokens ?? 0) * price.output
  return roundedCost(millionfold / 1_000_000)
}

/** A sum of costs without the crumbs of binary fractions. */
export function roundedCost(cost: number): number {
  return Number(cost.toFixed(DECIMALS))
}
