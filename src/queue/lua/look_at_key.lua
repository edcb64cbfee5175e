-- Reads a key's slot without taking it. KEYS: slot, rate, copies. Returns {holder, ms left, learned rate}.
local holder, left = kept(KEYS[1])
return { holder or '', left or 0, learned(KEYS[2]) }
