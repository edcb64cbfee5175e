-- Reads what is kept twice. KEYS: the key, copies. Answers {value, ms left}; without a value nothing.
local value, left = kept(KEYS[1])
return value and { value, left }
