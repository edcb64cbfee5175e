-- Returns the number of calls that were taken of a day. KEYS: the day's count, copies.
return tonumber(kept(KEYS[1], is_whole) or 0)
