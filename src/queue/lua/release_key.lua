-- Releases a key slot. Nobody can take it for a moment, and a late renewal of the run cannot take it back.
-- KEYS: slot, copies. ARGV: run, released:<run>, ms until the slot is free. Returns 1 when the slot was the run's, else 0.
local wrong = not_whole(3)
if wrong then
  return wrong
end
if kept(KEYS[1]) ~= ARGV[1] then
  return 0
end
keep(KEYS[1], ARGV[2], tonumber(ARGV[3]))
return 1
