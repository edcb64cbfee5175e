-- Extends the slots that the run still holds. KEYS: slots, copies. ARGV: run, lifetime in ms.
-- Returns 1 for each extended slot, 0 for a lost one.
local wrong = not_whole(2)
if wrong then
  return wrong
end
local results = {}
for i = 1, #KEYS - 1 do
  local ours = kept(KEYS[i]) == ARGV[1]
  if ours then
    keep(KEYS[i], ARGV[1], tonumber(ARGV[2]))
  end
  results[i] = ours and 1 or 0
end
return results
