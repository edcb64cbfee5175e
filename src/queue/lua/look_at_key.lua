-- Looks at a key's slot. KEYS: slot, rate, copies. Answers {holder, ms left, learned rate}.
local holder, left = kept(KEYS[1])
return { holder or '', left or 0, learned(KEYS[2]) }
