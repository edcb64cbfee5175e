-- Reads the count of a day. KEYS: the day's count, copies. Answers it.
return tonumber(kept(KEYS[1], is_whole) or 0)
