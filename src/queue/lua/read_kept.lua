-- Reads a value that is kept twice. KEYS: the key, copies. Returns {value, ms left}; nil without a value.
local value, left = kept(KEYS[1])
return value and { value, left }
